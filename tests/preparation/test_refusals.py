"""What would be lost or trained on unnoticed is refused or said."""

import json
from pathlib import Path

import pytest

from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.preparation.pipeline import prepare
from prealign.stores.token_store import TokenStore
from tests.conftest import SAMPLE_TEXT, tiny_recipe


def english(tmp_path: Path, files: list[str], **text: object) -> Recipe:
    languages = {
        "en": {"tokens": 10_240, "text": {"files": files} | text},
        "clone": {"tokens": 2_048, "clone_of": "en", "clone_share": 0.2},
    }
    return tiny_recipe(tmp_path / "data", languages=languages, data={"tokenizer": {"vocab_size": 400}})


def documents(count: int = 60) -> list[str]:
    text = " ".join(json.loads(line)["text"] for line in (SAMPLE_TEXT / "northanger_abbey.jsonl").open())
    return [" ".join(text[3000 * number : 3000 * number + 1500].split()) for number in range(count)]


def said(recipe: Recipe) -> list[str]:
    lines: list[str] = []
    prepare(recipe, lines.append)
    return lines


def test_folders_of_the_user_are_never_replaced(tmp_path: Path) -> None:
    """data.dir is where the corpora lie, by languages: nothing is touched."""
    (tmp_path / "data" / "en").mkdir(parents=True)
    (tmp_path / "data" / "en" / "novel.txt").write_text("\n\n".join(documents()))
    (tmp_path / "text.txt").write_text("\n\n".join(documents()))
    with pytest.raises(
        UserError, match=r"data\.dir: '.*/data/en' is there and was not written by launchers/prepare\.py"
    ):
        said(english(tmp_path, [str(tmp_path / "text.txt")]))
    assert [path.name for path in (tmp_path / "data" / "en").iterdir()] == ["novel.txt"]


def test_text_inside_of_prepared_data_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "novel.txt").write_text("\n\n".join(documents()))
    with pytest.raises(UserError, match=r"found '.*novel\.txt', which is in data\.dir"):
        said(english(tmp_path, [str(tmp_path / "**" / "*.txt")]))


@pytest.mark.parametrize("name", ["", "tokenizer", "words", "lexicon", "de/at", "..", ".hidden", "a b", "a.b"])
def test_names_that_are_no_folders_of_their_own(tmp_path: Path, name: str) -> None:
    languages = tiny_recipe(tmp_path).model_dump(mode="json")["languages"]
    with pytest.raises(UserError, match=r"languages: found the name '.*'; expected letters, digits"):
        tiny_recipe(tmp_path, languages=languages | {name: {"tokens": 10, "clone_of": "en"}})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": {"heldout_fraction": 0.2}}, "shares held out"),
        ({"lexicon": {"min_count": 20}}, "min_count 1; .* 20"),
        ({"lexicon": {"max_translations": 1}}, "max_translations None"),
        ({"data": {"invalid_utf8": "refuse"}}, "invalid_utf8 replace"),
        ({"text": {"max_documents": 5}}, "max_documents None"),
        ({"text": {"normalize": "none"}}, "normalize nfc"),
    ],
)
def test_a_recipe_that_is_not_what_was_prepared(data_dir: Path, changes: dict[str, dict], what: str) -> None:
    changes = dict(changes)
    if text := changes.pop("text", None):
        languages = tiny_recipe(data_dir).model_dump(mode="json")["languages"]
        languages["en"]["text"] |= text
        changes["languages"] = languages
    with pytest.raises(UserError, match=f"made with {what}.*run launchers/prepare.py with this recipe"):
        open_data(tiny_recipe(data_dir, **changes))


def test_rows_without_the_field_and_bad_bytes_are_said(tmp_path: Path) -> None:
    rows = [json.dumps({"text" if number % 2 else "content": text}) for number, text in enumerate(documents())]
    (tmp_path / "a.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"text": "caf\xe9"}\n')
    lines = said(english(tmp_path, [str(tmp_path / "a.jsonl")]))
    assert any("en: 30 of 61 rows have no 'text' and were passed over" in line for line in lines)
    assert any("en: 1 byte sequences that are not UTF-8 were replaced" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00rest", r"found a compressed file; expected text; give it a name that ends in \.gz"),
        ("bung\n\nbung".encode("utf-16-le"), "found zero bytes.* UTF-16 without a byte order mark"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        said(english(tmp_path, [str(tmp_path / "a.txt")]))


def test_extra_texts_do_not_hold_what_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(documents()))
    text = {"files": [str(tmp_path / "a.txt")]}
    languages = {"en": {"tokens": 10_240, "text": text, "sources": {"again": {"tokens": 2_048, "text": text}}}}
    recipe = tiny_recipe(
        tmp_path / "data", languages=languages, data={"tokenizer": {"vocab_size": 400}, "heldout_fraction": 0.3},
        stages=["pretrain"], codeswitch={"ratio": 0.0},
    )  # fmt: skip
    prepare(recipe, lambda line: None)
    tokenizer = open_data(recipe).tokenizer

    def held(folder: str, split: str) -> set[str]:
        return set(tokenizer.decode(TokenStore(recipe.data.dir / folder / split).tokens).split("<|endoftext|>")) - {""}

    assert len(held("en", "dev") | held("en", "test")) > 5
    assert held("en.again", "train") == held("en", "train")
