"""Imported tokenizers give the ids that `tokenizers` gives; what is not byte-level BPE is refused."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Stock
from tokenizers import models, normalizers, pre_tokenizers

from prealign.errors import UserError
from prealign.interop.hf_tokenizer import check_ranks, read_tokenizer
from prealign.interop.importing import TOKENIZER, read_import, write
from prealign.interop.tokenizer import byte_level_tokenizer, refuse_other_ids
from prealign.text.tokenizer import Tokenizer
from tests.interop.checkpoints import stock_config, stock_tokenizer

FAMILIES = ["gpt2", "llama3", "qwen"]
SPECIALS = {
    "gpt2": ["<|endoftext|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
SCRIPTS = [
    (0x20, 0x7E),  # Latin
    (0xC0, 0x24F),
    (0x370, 0x3FF),  # Greek
    (0x400, 0x4FF),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x600, 0x6FF),  # Arabic
    (0x900, 0x97F),  # Devanagari, with its marks
    (0xE00, 0xE5B),  # Thai
    (0x3040, 0x30FF),  # kana
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul
    (0x1F600, 0x1F64F),  # signs of four bytes
    (0x300, 0x36F),  # marks that stand alone
]
BETWEEN = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    ". ",
    ", ",
    "\t",
    "'s ",
    "'LL",
    " 12345 ",
    "-",
    "  \n ",
    "\u00a0",
    "(",
    "२३",
    "ſ",
]


def strings(count: int) -> list[str]:
    """Words in ten scripts, pieces of words that merges know, and what stands between words; composed."""
    draw = np.random.default_rng(5)
    known = ["the", "and", "The", "General", "Tilney", "Catherine", "would", "ing", "ness", "which", "Isabella's"]
    result = []
    for _ in range(count):
        parts: list[str] = []
        for _ in range(draw.integers(1, 10)):
            if draw.random() < 0.4:
                parts += [known[number] for number in draw.integers(0, len(known), draw.integers(1, 3))]
            else:
                first, last = SCRIPTS[draw.integers(len(SCRIPTS))]
                parts.append("".join(map(chr, draw.integers(first, last + 1, draw.integers(1, 9)))))
            parts.append(BETWEEN[draw.integers(len(BETWEEN))])
        result.append(unicodedata.normalize("NFC", "".join(parts)))
    return result


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ``tokenizer.json`` and a config of each family."""
    made = {}
    for kind in FAMILIES:
        folder = tmp_path_factory.mktemp(kind)
        stock = stock_tokenizer(kind, 1500, SPECIALS[kind])
        stock.save(str(folder / "tokenizer.json"))
        stock_config("gpt2", stock.get_vocab_size()).save_pretrained(folder)
        made[kind] = folder
    return made


def stock_of(folder: Path) -> Stock:
    return Stock.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", FAMILIES)
def test_ids_on_random_strings(kind: str, folders: dict[str, Path]) -> None:
    stock, ours = stock_of(folders[kind]), read_tokenizer(folders[kind] / "tokenizer.json")
    texts = strings(10_000)
    merged = 0
    for text, expected in zip(texts, stock.encode_batch(texts)):
        ids = ours.encode(text).tolist()
        assert ids == expected.ids, repr(text)
        merged += sum(len(ours.token_bytes(token)) > 3 for token in ids)
    assert merged > 10_000  # tokens that merges made


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_token_alone(kind: str, folders: dict[str, Path]) -> None:
    stock, ours = stock_of(folders[kind]), read_tokenizer(folders[kind] / "tokenizer.json")
    for token in ours.ranks:
        text = token.decode("utf-8", "ignore")
        assert ours.encode(text).tolist() == stock.encode(text).ids


def test_special_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    """Llama 3 has several behind the ranks, of which the last is not the end of a document."""
    ours = read_tokenizer(folders["llama3"] / "tokenizer.json")
    assert ours.vocab_size == 1503
    assert ours.special.ids == {"<|begin_of_text|>": 1500, "<|end_of_text|>": 1501, "<|eot_id|>": 1502}
    assert ours.end_of_document == 1501
    assert ours.decode([*ours.encode("One."), 1501, *ours.encode("Two.")]) == "One.<|end_of_text|>Two."
    assert (ours.token_bytes(1500), ours.token_lengths[1502]) == (b"", 0)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.special, again.pattern, again.ranks) == (ours.special, ours.pattern, ours.ranks)
    assert again.fingerprint == ours.fingerprint
    other = read_tokenizer(folders["llama3"] / "tokenizer.json", "<|eot_id|>")
    assert other.end_of_document == 1502
    assert other.fingerprint != ours.fingerprint


def test_special_tokens_before_all_others(folders: dict[str, Path], tmp_path: Path) -> None:
    """As trainers of `tokenizers` put them."""
    content = json.loads((folders["gpt2"] / "tokenizer.json").read_text())
    model = content["model"]
    model["vocab"] = {name: token + 2 for name, token in model["vocab"].items() if token < 1500}
    content["added_tokens"] = [
        content["added_tokens"][0] | {"id": n, "content": c} for n, c in enumerate(("<s>", "</s>"))
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    ours = read_tokenizer(tmp_path / "tokenizer.json")
    assert ours.end_of_document == 1
    ours.save(tmp_path)
    stock, again = stock_of(tmp_path), Tokenizer.load(tmp_path)
    assert all(again.encode(text).tolist() == stock.encode(text).ids for text in strings(300))


def test_what_we_export_comes_back(folders: dict[str, Path], tmp_path: Path) -> None:
    ours = read_tokenizer(folders["llama3"] / "tokenizer.json")
    byte_level_tokenizer(ours, 0).save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path / "tokenizer.json").fingerprint == ours.fingerprint


def test_a_token_that_no_merge_makes(tmp_path: Path) -> None:
    """With `ignore_merges`, as Llama 3 has it, such a token is a piece of text as a whole, and never a part of one."""
    stock = stock_tokenizer("llama3", 400, ["<|end_of_text|>"])
    content = json.loads(stock.to_str())
    for token in content["added_tokens"]:
        token["id"] = 401
    content["model"]["vocab"]["zqzxj"] = 400
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours, made = read_tokenizer(tmp_path / "tokenizer.json"), stock_of(tmp_path)
    for text in ("zqzxj", " zqzxj", "zqzxjzqzxj", "(zqzxj zqzxj"):
        assert ours.encode(text).tolist() == made.encode(text).ids
    assert ours.encode("zqzxj").tolist() == [400]
    content["model"]["ignore_merges"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"token b'zqzxj' cannot be merged of others"):
        read_tokenizer(tmp_path / "tokenizer.json")


def content_of(stock: Stock, **changes: Any) -> dict[str, Any]:
    return json.loads(stock.to_str()) | changes


def wordpiece() -> dict[str, Any]:
    return content_of(Stock(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))


def unigram() -> dict[str, Any]:
    return content_of(Stock(models.Unigram([("a", 0.0)])))


def sentencepiece() -> dict[str, Any]:
    """A BPE as Llama 2's."""
    stock = Stock(models.BPE({"▁a": 0}, [], byte_fallback=True))
    return content_of(stock)


def changed(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: content_of(stock_tokenizer("gpt2", 300, ["<|endoftext|>"]), **changes)


def model_changed(change: Callable[[dict[str, Any]], None]) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        content = content_of(stock_tokenizer("gpt2", 300, ["<|endoftext|>"]))
        change(content["model"])
        return content

    return make


def step(kind: Any) -> dict[str, Any]:
    return json.loads(kind.__getstate__())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wordpiece, "found a model WordPiece; expected byte-level BPE"),
        (unigram, "found a model Unigram"),
        (sentencepiece, "found model.byte_fallback True"),
        (changed(normalizer=step(normalizers.Lowercase())), "found a normalizer Lowercase"),
        (changed(pre_tokenizer=None), "found no pre_tokenizer"),
        (changed(pre_tokenizer=step(pre_tokenizers.Metaspace())), "found the pre_tokenizer Metaspace"),
        (changed(pre_tokenizer=step(pre_tokenizers.ByteLevel(add_prefix_space=True))), "found add_prefix_space"),
        (
            changed(pre_tokenizer=step(pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]))),
            r"found the pre_tokenizer Digits \+ ByteLevel",
        ),
        (changed(added_tokens=[{"id": 300, "content": "  ", "special": False}]), "found the added token '  ', which"),
        (changed(added_tokens=[{"id": 301, "content": "<|endoftext|>"}]), "found no token with the id 300"),
        (changed(added_tokens=[{"id": 300, "content": "<|x|>"}]), "found no special token of .* --end-of-document"),
        (model_changed(lambda model: model["merges"].reverse()), "is not merged of .* in the order of ids"),
        (model_changed(lambda model: model["merges"].pop(3)), "is not merged of"),
        (model_changed(lambda model: model["vocab"].pop("!")), "found no token for 1 of the 256 bytes|not a tokenizer"),
        (changed(model={"type": "BPE"}), "not a tokenizer.json .KeyError: 'vocab'"),
        (lambda: ["no"], "found list; expected a tokenizer.json"),
    ],
)
def test_what_cannot_be_imported(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(make()))
    with pytest.raises(UserError, match=message) as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_means_another_thing(tmp_path: Path) -> None:
    stock = stock_tokenizer("qwen", 1500, ["<|endoftext|>"])
    content = json.loads(stock.to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}{1,3}+|\P{L}+"
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"by which tiktoken cuts .* in another way"):
        refuse_other_ids(read_tokenizer(path), path)


def test_data_of_another_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    own = read_tokenizer(folders["gpt2"] / "tokenizer.json")
    assert check_ranks(folders["gpt2"], own, own.vocab_size) == own.vocab_size
    assert check_ranks(tmp_path, own, 5) == 5  # nothing to compare with
    other = read_tokenizer(folders["llama3"] / "tokenizer.json")
    with pytest.raises(UserError, match=r"the prepared data has another tokenizer than .* of 1,500 ids stand for"):
        check_ranks(folders["gpt2"], other, other.vocab_size)
    more = Tokenizer(own.ranks | {"новый".encode(): own.vocab_size}, own.pattern, own.special)
    assert check_ranks(folders["gpt2"], more, own.vocab_size) == own.vocab_size
    with pytest.raises(UserError, match="the prepared data has another tokenizer than"):
        check_ranks(folders["gpt2"], more, more.vocab_size)


def test_the_folder_that_is_written(folders: dict[str, Path], tmp_path: Path) -> None:
    found = read_import(folders["llama3"], None)
    write(found, tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out" / TOKENIZER).fingerprint == found.tokenizer.fingerprint
    written = (tmp_path / "out" / "model.yaml").read_text()
    for line in ("vocab_size: 1503", "end_of_document: 1501", f"ranks: {tmp_path / 'out' / TOKENIZER}"):
        assert line in written
    write(found, tmp_path / "out")  # again
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--out: '.*mine' is there and holds no import"):
        write(found, tmp_path / "mine")
