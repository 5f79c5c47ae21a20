"""Text that Megatron's tools have tokenised: the same data as from the text itself, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prealign.config import Recipe
from prealign.data.contents import SPLITS
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.preparation.pipeline import prepare
from prealign.preparation.verifying import verify_data
from prealign.stores.token_store import StoreWriter, TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.tokenizer import Tokenizer
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.processes import train

EN = {"tokens": 40_960}
CLONE = {"tokens": 10_240, "clone_of": "en", "clone_share": 0.2}


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Tokenizer:
    return Tokenizer.load(data_dir / "tokenizer")


def documents() -> list[str]:
    return [json.loads(line)["text"] for line in (SAMPLE_TEXT / "northanger_abbey.jsonl").open()]


def from_store(data_dir: Path, folder: Path, store: Any, **changes: Any) -> Recipe:
    """The tiny recipe with the tokenizer of ``data_dir`` and English out of ``store``."""
    languages = changes.pop("languages", {"en": EN | {"text": {"store": store}}, "clone": CLONE})
    settings = {"dir": str(folder), "tokenizer": {"vocab_size": 600, "ranks": str(data_dir / "tokenizer")}}
    return tiny_recipe(folder, languages=languages, data=settings, **changes)


def megatron_store(prefix: Path, texts: list[list[int]], dtype: type, sequences: int = 1) -> Path:
    """Written as Megatron's and GPT-NeoX's ``preprocess_data.py`` do, a document in one or several sequences."""
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    builder = indexed.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for ids in texts:
        parts = [len(part) for part in np.array_split(ids, min(sequences, len(ids)))]
        builder.add_document(torch.tensor(ids), parts)
    builder.finalize(f"{prefix}.idx")
    return prefix


def write(prefix: Path, texts: list[list[int]], vocab_size: int = 600) -> Path:
    with StoreWriter(prefix, vocab_size) as store:
        for ids in texts:
            store.append(np.array(ids, np.int64))
    return prefix


def prepared(recipe: Recipe) -> list[str]:
    lines: list[str] = []
    prepare(recipe, lines.append)
    return lines


@pytest.mark.parametrize(
    ("dtype", "end", "sequences"), [(np.uint16, True, 1), (np.int32, False, 1), (np.int32, True, 3)]
)
def test_a_megatron_store_gives_what_its_text_gives(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, dtype: type, end: bool, sequences: int
) -> None:
    """Tokens, word maps, code-switch maps and the table, byte for byte; then it trains, with the same losses."""
    ends = [tokenizer.end_of_document] if end else []
    texts = [tokenizer.encode(document).tolist() + ends for document in documents()]
    half = len(texts) // 2
    megatron_store(tmp_path / "a_text_document", texts[:half], dtype, sequences)
    megatron_store(tmp_path / "b_text_document", texts[half:], dtype, sequences)
    recipe = from_store(data_dir, tmp_path / "data", f"{tmp_path}/*_text_document")
    assert not [line for line in prepared(recipe) if line.startswith("note")]
    direct = from_store(data_dir, tmp_path / "direct", None, languages=direct_text())
    prepared(direct)
    for folder in ("en", "clone", "words", "lexicon", "codeswitch", "coverage"):
        for path in (tmp_path / "direct" / folder).iterdir():
            if path.name != "manifest.json":
                assert path.read_bytes() == (tmp_path / "data" / folder / path.name).read_bytes(), path
    verify_data(open_data(recipe), lambda line: None)
    if dtype is np.uint16:
        losses = [
            [row["lm_loss"] for row in train(each, tmp_path / name, 1, "--stage", "align") if row["kind"] == "train"]
            for each, name in ((recipe, "run"), (direct, "direct_run"))
        ]
        assert losses[0] == losses[1]
        assert len(losses[0]) > 3


def direct_text() -> dict[str, Any]:
    return {"en": EN | {"text": {"files": [str(SAMPLE_TEXT / "northanger_abbey.jsonl")]}}, "clone": CLONE}


def test_other_tokens_are_kept_and_words_found_by_bytes(data_dir: Path, tmp_path: Path) -> None:
    """Documents in single bytes, with a token over the edge of a word, and cut inside a character; each with the words
    that its bytes have."""
    ranks = Tokenizer.load(data_dir / "tokenizer").ranks
    del ranks[next(token for token, rank in ranks.items() if rank == 598)]
    tokenizer = Tokenizer(ranks | {b"e,": 598})
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    end = tokenizer.end_of_document
    single = [tokenizer.ranks[bytes([byte])] for byte in "Äpfel, and more.".encode()]
    whole = tokenizer.encode("the house").tolist()
    torn = [tokenizer.ranks[bytes([byte])] for byte in "a Ä".encode()[:-1]]
    across = [tokenizer.ranks[b"t"], tokenizer.ranks[b"h"], tokenizer.ranks[b"e,"], *whole]
    made = [single, [*whole, end, *across, end], torn]
    texts = made + [tokenizer.encode(document).tolist() for document in documents()]
    recipe = from_store(tmp_path, tmp_path / "data", str(write(tmp_path / "s", texts)))
    lines = prepared(recipe)
    assert any("languages.en: 1 of " in line and "words" in line for line in lines)
    assert any("3 of the first" in line and "other tokens than data.tokenizer gives" in line for line in lines)
    data = open_data(recipe)
    verify_data(data, lambda line: None)
    found: dict[tuple[int, ...], list[str]] = {}
    for language, shift in (("en", 0), ("clone", 600)):
        for split in SPLITS:
            store = TokenStore(recipe.data.dir / language / split)
            starts, ends, _, _ = WordMap(recipe.data.dir / language / f"{split}.words").between(0, len(store))
            place = np.cumsum([0, *store.lengths])
            for first, last in pairwise(place):
                inside = (starts >= first) & (ends <= last)
                words = [
                    tokenizer.decode(store.tokens[a:b].astype(np.int64) - shift).strip()
                    for a, b in zip(starts[inside], ends[inside])
                ]
                found[tuple(store.tokens[first : last - 1].astype(int) - shift)] = words
    assert found[tuple(single)] == ["Äpfel", "and", "more"]
    assert found[tuple(whole)] == ["the", "house"]
    assert found[tuple(across)] == ["the", "house"]
    assert found[tuple(torn)] == ["a"]
    assert tuple(tokenizer.encode(documents()[3]).tolist()) in found


def test_only_a_changed_store_is_prepared_again(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = [tokenizer.encode(document).tolist() for document in documents()]
    prefix = write(tmp_path / "s", texts)
    recipe = from_store(data_dir, tmp_path / "data", str(prefix))
    prepared(recipe)
    assert {line.split()[0] for line in prepared(recipe)} == {"kept"}
    with pytest.raises(UserError, match="made with store True; the recipe and its other data have None"):
        open_data(from_store(data_dir, tmp_path / "data", None, languages=direct_text()))
    content = bytearray((tmp_path / "s.bin").read_bytes())
    content[:2] = content[2:4]
    (tmp_path / "s.bin").write_bytes(content)
    assert "built" in {line.split()[0] for line in prepared(recipe)}


def test_an_extra_text_leaves_out_what_is_held_out(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of a store with the language's own documents and one more, the held-out ones are not read."""
    texts = [tokenizer.encode(document).tolist() for document in documents()]
    own = write(tmp_path / "own", texts)
    extra = write(tmp_path / "extra", [*texts, tokenizer.encode("something new").tolist()])
    source = {"tokens": 512, "text": {"store": [str(extra)]}}
    languages = {"en": EN | {"text": {"store": str(own)}, "sources": {"more": source}}, "clone": CLONE}
    recipe = from_store(data_dir, tmp_path / "data", None, languages=languages)
    prepared(recipe)
    facts = {name: open_data(recipe).artefacts[name].facts for name in ("en", "clone", "en.more")}
    heldout = facts["en"]["dev_documents"] + facts["en"]["test_documents"]
    assert heldout > 0
    assert facts["en.more"]["train_documents"] == len(texts) + 1 - heldout


def damaged(prefix: Path, what: str) -> None:
    index, tokens = prefix.with_name("s.idx"), prefix.with_name("s.bin")
    if what == "no index":
        index.unlink()
    elif what == "no tokens":
        tokens.unlink()
    elif what == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif what == "magic":
        index.write_bytes(b"TNTIDX" + index.read_bytes()[6:])
    elif what == "lengths":
        content = bytearray(index.read_bytes())
        content[34] += 1  # the first document's length
        index.write_bytes(content)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no index", r"languages\.en\.text\.store: no such file '.*s\.idx'"),
        ("no tokens", r"languages\.en\.text\.store: no such file '.*s\.bin' beside its index"),
        ("cut", r"s\.bin: found \d+ bytes; expected \d+ by its index"),
        ("magic", r"s\.idx: found no MMIDIDX header; expected a Megatron \.idx file"),
        ("lengths", r"s\.idx: its documents are not the [\d,]+ tokens of s\.bin"),
    ],
)
def test_damage_is_refused_before_anything_is_built(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, what: str, message: str
) -> None:
    write(tmp_path / "s", [tokenizer.encode(document).tolist() for document in documents()[:5]])
    damaged(tmp_path / "s", what)
    lines: list[str] = []
    with pytest.raises(UserError, match=message) as error:
        prepare(from_store(data_dir, tmp_path / "data", str(tmp_path / "s")), lines.append)
    assert "\n" not in str(error.value)
    assert lines == []


def test_ids_of_another_tokenizer_are_refused_with_their_place(data_dir: Path, tmp_path: Path) -> None:
    prefix = write(tmp_path / "s", [[1, 2, 3], [4, 700, 5]], vocab_size=1000)
    with pytest.raises(UserError, match=r"s\.bin, token 4 \(counted from 0\): found id 700; expected 0 to 599"):
        prepared(from_store(data_dir, tmp_path / "data", str(prefix)))


@pytest.mark.parametrize(
    ("text", "clone", "message"),
    [
        (
            {"store": "s"},
            {"clone_level": "word"},
            "clone_level: word, which rewrites text; expected clone_level: token",
        ),
        ({"store": "s", "normalize": "nfkc"}, {}, "found 'normalize' beside 'store', whose tokens are taken as they"),
        ({"store": "s", "files": ["a.txt"]}, {}, "found 'files' and 'store' of 'files', 'hub' and 'store'"),
    ],
)
def test_what_a_store_cannot_have_is_refused_in_the_recipe(
    data_dir: Path, tmp_path: Path, text: dict[str, Any], clone: dict[str, Any], message: str
) -> None:
    languages = {"en": EN | {"text": text}, "clone": CLONE | clone}
    with pytest.raises(UserError, match=message):
        from_store(data_dir, tmp_path, None, languages=languages)


def test_a_tokenizer_cannot_be_trained_on_tokens(tmp_path: Path) -> None:
    languages = {"en": EN | {"text": {"store": "s"}}, "clone": CLONE}
    with pytest.raises(UserError, match=r"languages\.en\.text\.store: found token ids and no data\.tokenizer\.ranks"):
        tiny_recipe(tmp_path, languages=languages)
