"""A checkpoint of one language, with tokens and rows for another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as HuggingFaceTokenizer

from prealign.config import Recipe
from prealign.config.loading import validate
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import UserError
from prealign.interop.new_rows import new_rows
from prealign.interop.tokenizer import byte_level_tokenizer, write_tokenizer
from prealign.preparation.pipeline import prepare
from prealign.text.tokenizer import Tokenizer
from prealign.training.run import first_weights
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.interop.checkpoints import stock_model
from tests.text.test_extension import CYRILLIC

OLD, NEW = 600, 300
TABLE = "gpt.embedding.tokens.weight"


def cyrillic(word: str) -> str:
    return word.lower().translate(CYRILLIC)


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock model of the shared data's 600 tokens, Cyrillic text, and a dictionary into it."""
    folder = tmp_path_factory.mktemp("new")
    stock_model("gpt2", 640).save_pretrained(folder / "stock")
    lines = (SAMPLE_TEXT / "northanger_abbey.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": cyrillic(text)}) + "\n" for text in texts))
    words = sorted({word.lower() for text in texts for word in text.split() if word.isalpha()})
    pairs = [f"{word}\t{cyrillic(word)}\n" for word in words]
    pairs += [f"{word}\t{cyrillic('her')}\n" for word in ("you", "him")]  # a word with three source words
    (folder / "pairs.tsv").write_text("".join(pairs))
    prepare(recipe_of(folder, data_dir), say=lambda line: None)
    return folder


def recipe_of(folder: Path, data_dir: Path, new: str = "pieces", tokens: int = NEW) -> Recipe:
    russian = {
        "tokens": 2048,
        "text": {"files": [str(folder / "text.jsonl")]},
        "dictionaries": [str(folder / "pairs.tsv")],
    }
    english = tiny_recipe(data_dir).languages["en"].model_dump(mode="json")
    extension = {"tokens": tokens, "languages": ["ru"]}
    ranks = {"vocab_size": OLD + NEW, "ranks": str(data_dir / "tokenizer"), "extension": extension}
    return tiny_recipe(
        data_dir,
        languages={"en": english, "ru": russian},
        data={"dir": str(folder / "data"), "tokenizer": ranks},
        model={"init": f"hf:{folder / 'stock'}", "new_rows": new, "heads": 4, "context": 32, "vocab_multiple": 64}
        | {"tied_embeddings": True},
    )


@pytest.fixture
def opened(folder: Path, data_dir: Path) -> tuple[PreparedData, torch.Tensor]:
    table = load_file(folder / "stock" / "model.safetensors")["transformer.wte.weight"]
    return open_data(recipe_of(folder, data_dir)), table


def test_rows_of_pieces(folder: Path, data_dir: Path, opened: tuple[PreparedData, torch.Tensor]) -> None:
    data, table = opened
    recipe = recipe_of(folder, data_dir)
    old = Tokenizer.load(data_dir / "tokenizer")
    value = first_weights(recipe, data)(TABLE, torch.Size((960, 32)))
    assert torch.equal(value[:OLD], table[:OLD])
    for token in range(OLD, OLD + NEW):
        text = data.tokenizer.token_bytes(token)
        try:
            pieces = old.encode(text.decode()).tolist()
        except UnicodeDecodeError:
            continue
        torch.testing.assert_close(value[token], table[pieces].mean(dim=0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(value[OLD + NEW :], table[:OLD].mean(dim=0).expand(60, 32), atol=1e-6, rtol=1e-5)


def test_rows_of_translations(folder: Path, data_dir: Path, opened: tuple[PreparedData, torch.Tensor]) -> None:
    data, table = opened
    recipe = recipe_of(folder, data_dir, "translations")
    rows = new_rows(recipe, data)
    assert rows is not None
    value = first_weights(recipe, data)(TABLE, torch.Size((960, 32)))
    pieces = first_weights(recipe_of(folder, data_dir), data)(TABLE, torch.Size((960, 32)))
    old = Tokenizer.load(data_dir / "tokenizer")

    def row_of(*words: str) -> torch.Tensor:
        return torch.stack([table[old.encode(f" {word}").tolist()].mean(dim=0) for word in words]).mean(dim=0)

    for word in ("the", "that", "with"):
        (token,) = data.tokenizer.encode(f" {cyrillic(word)}").tolist()
        assert token >= OLD
        torch.testing.assert_close(value[token], row_of(word), atol=1e-6, rtol=1e-5)
    her = data.tokenizer.encode(f" {cyrillic('her')}").tolist()
    assert len(her) == 1
    torch.testing.assert_close(value[her[0]], row_of("her", "you", "him"), atol=1e-6, rtol=1e-5)
    changed = (value != pieces).any(dim=1)
    assert not changed[:OLD].any()
    assert 50 < int(changed.sum()) <= rows.translated < NEW


def test_words_that_the_table_leaves_out_start_from_pieces(folder: Path, data_dir: Path) -> None:
    recipe = recipe_of(folder, data_dir, "translations")
    whole = new_rows(recipe, open_data(recipe))
    few = recipe.model_copy(update={"lexicon": recipe.lexicon.model_copy(update={"top_fraction": 0.01})})
    rows = new_rows(few, open_data(few))
    assert whole is not None
    assert rows is not None
    assert 0 < rows.translated < whole.translated
    torch.testing.assert_close(torch.zeros(NEW).index_add(0, rows.new, rows.weight), torch.ones(NEW))


def test_a_checkpoint_that_has_the_new_tokens(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    """An export of such a run is taken as it is."""
    recipe = recipe_of(folder, data_dir)
    data = open_data(recipe)
    stock_model("gpt2", 960).save_pretrained(tmp_path / "later")
    write_tokenizer(tmp_path / "later", data.tokenizer, 0, 32)
    model = recipe.model.model_copy(update={"init": f"hf:{tmp_path / 'later'}"})
    value = first_weights(recipe.model_copy(update={"model": model}), data)(TABLE, torch.Size((960, 32)))
    table = load_file(tmp_path / "later" / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(value, table)


def test_a_head_of_its_own_gets_them_too(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, data_dir)
    data = open_data(recipe)
    stock = stock_model("gpt2", OLD, tie_word_embeddings=False)
    stock.save_pretrained(tmp_path / "untied")
    model = recipe.model.model_copy(update={"init": f"hf:{tmp_path / 'untied'}", "tied_embeddings": False})
    value = first_weights(recipe.model_copy(update={"model": model}), data)
    rows = new_rows(recipe, data)
    assert rows is not None
    weights = stock.state_dict()
    for name, theirs in ((TABLE, "transformer.wte.weight"), ("head.weight", "lm_head.weight")):
        found = value(name, torch.Size((960, 32)))
        assert torch.equal(found[OLD : OLD + NEW], rows.of(weights[theirs]))


def test_its_tokenizer_json_has_the_same_ids(opened: tuple[PreparedData, torch.Tensor]) -> None:
    tokenizer = opened[0].tokenizer
    theirs: HuggingFaceTokenizer = byte_level_tokenizer(tokenizer, 0)
    generator = torch.Generator().manual_seed(3)
    letters = "abcdefgh абцдефгхийклмнопярст.,;! \n12345ßé你好"
    for _ in range(500):
        text = "".join(letters[int(i)] for i in torch.randint(0, len(letters), (40,), generator=generator))
        assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).tolist()


def test_what_the_tokenizer_depends_on(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    prepare(recipe_of(folder, data_dir, "translations"), lines.append)
    assert all(not line.startswith("built") for line in lines)
    shutil.copytree(folder / "data", tmp_path / "data")
    unspaced = recipe_of(folder, data_dir).model_dump(mode="json")
    unspaced["data"]["dir"] = str(tmp_path / "data")
    unspaced["languages"]["ru"]["space_prefix"] = False  # a part of its text stands for the whole
    prepare(validate(unspaced, "test"), lines.append)
    assert any(line.startswith("built") and "(tokenizer)" in line for line in lines)


def test_sizes_that_do_not_add_up(folder: Path, data_dir: Path) -> None:
    other = recipe_of(folder, data_dir).model_dump(mode="json")
    other["data"]["dir"] = str(folder / "other")
    other["data"]["tokenizer"]["vocab_size"] = 700
    with pytest.raises(
        UserError, match=r"vocab_size: found 700; .* has 600 with .*, and 300 come beside them; set .* 900"
    ):
        prepare(validate(other, "test"), lambda line: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": None}, "extension: found without ranks; expected the tokenizer to extend"),
        (
            {"extension": {"tokens": 800, "languages": ["ru"]}},
            "extension.tokens: found 800 of vocab_size=900; expected",
        ),
        (
            {"extension": {"tokens": 10, "languages": ["de"]}},
            "extension.languages: found 'de'; expected languages of this",
        ),
        ({"extension": {"tokens": 10, "languages": []}}, "extension.languages: found"),
        ({"extension": {"tokens": 300, "languages": ["ru", "ru"]}}, "expected each language once"),
    ],
)
def test_what_cannot_be_extended(change: dict, message: str, folder: Path, data_dir: Path) -> None:
    values = recipe_of(folder, data_dir).model_dump(mode="json")
    values["data"]["tokenizer"] |= change
    with pytest.raises(UserError, match=message):
        validate(values, "test")


def test_new_rows_are_of_new_tokens(folder: Path, data_dir: Path) -> None:
    values = recipe_of(folder, data_dir, "translations").model_dump(mode="json")
    values["model"]["init"] = "random"
    with pytest.raises(UserError, match=r"model.new_rows: found 'translations' without data.tokenizer.extension, or"):
        validate(values, "test")


def test_translations_need_a_table(folder: Path, data_dir: Path) -> None:
    recipe = recipe_of(folder, data_dir, "translations")
    data = open_data(recipe)
    without = PreparedData(recipe, {name: part for name, part in data.artefacts.items() if name != "lexicon"})
    with pytest.raises(UserError, match=r"model.new_rows: found 'translations' without an alignment table"):
        new_rows(recipe, without)
