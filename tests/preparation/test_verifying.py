"""Damage of any byte of prepared data is found by `--verify`, and damaged headers when data is opened."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from prealign.artefacts import Artefact, ensure
from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.files import digest
from prealign.preparation.verifying import verify_data
from prealign.stores.codeswitch_map import CodeSwitchMap
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from tests.conftest import tiny_recipe


def verify(recipe: Recipe) -> list[str]:
    lines: list[str] = []
    verify_data(open_data(recipe), lines.append)
    return lines


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Recipe:
    shutil.copytree(data_dir, tmp_path / "data")
    return tiny_recipe(tmp_path / "data")


def test_whole_data_passes(copy: Recipe) -> None:
    assert len(verify(copy)) == 8


def damages_are_found(recipe: Recipe, count: int) -> None:
    draw = random.Random(count)
    files = [path for path in sorted(recipe.data.dir.glob("*/*")) if path.is_file()]
    assert {path.suffix for path in files} >= {".bin", ".idx", ".words", ".cs", ".npy", ".json", ".jsonl", ".tiktoken"}
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        place = draw.randrange(len(content)) if draw.random() < 0.7 else draw.randrange(min(64, len(content)))
        if draw.random() < 0.3:
            path.write_bytes(content[:place])
        else:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        with pytest.raises(UserError) as caught:
            verify(recipe)
        assert str(path.parent) in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(content)
    assert verify(recipe)


def test_flipped_bits_and_truncations_are_found(copy: Recipe) -> None:
    damages_are_found(copy, 40)


@pytest.mark.slow
def test_a_thousand_damages_are_found(copy: Recipe) -> None:
    damages_are_found(copy, 1000)


def test_a_stranger_is_named(copy: Recipe) -> None:
    (copy.data.dir / "en" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: found a file that its manifest does not list"):
        verify(copy)


@pytest.mark.parametrize("file", ["en/train.words", "en/train.idx", "codeswitch/train.cs"])
def test_damaged_headers_are_refused_when_opened(copy: Recipe, file: str) -> None:
    """By the file alone, without its manifest."""
    path = copy.data.dir / file
    words = WordMap(copy.data.dir / "en" / "train.words").words
    content = path.read_bytes()

    def opened() -> None:
        {"words": WordMap, "idx": lambda p: TokenStore(p.with_suffix("")), "cs": lambda p: CodeSwitchMap(p, words)}[
            path.suffix[1:]
        ](path)

    for place in range({"words": 32, "idx": 34, "cs": 32}[path.suffix[1:]]):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with pytest.raises(UserError, match=path.name):
            opened()
    for size in (0, 5, 40, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"train\.(idx|words|cs|bin)"):
            opened()
    path.write_bytes(content + b"\0")
    with pytest.raises(UserError, match=path.name):
        opened()


def rewrite(recipe: Recipe, artefact: Artefact, file: str, content: bytes) -> None:
    """Write other content with a manifest to match, as a builder with a bug would."""
    old = artefact.folder.with_name("old")
    artefact.folder.rename(old)

    def build(folder: Path) -> dict:
        for name in artefact.files:
            shutil.copy(old / name, folder / name)
        (folder / file).write_bytes(content)
        return artefact.facts

    ensure(artefact.folder, artefact.kind, artefact.inputs, build)
    shutil.rmtree(old)


def test_wrong_content_with_right_hashes_is_found(copy: Recipe) -> None:
    """Invariants: the store's end-of-document tokens, the map's entries."""
    artefacts = open_data(copy).artefacts
    forms = np.fromfile(copy.data.dir / "codeswitch" / "train.cs", np.uint8)
    known = 32 + int(np.flatnonzero(forms[32:])[0])
    forms[known] ^= 1
    rewrite(copy, artefacts["codeswitch"], "train.cs", forms.tobytes())
    with pytest.raises(UserError, match="words whose entry is another word: found 1; expected 0"):
        verify(copy)

    tokens = np.fromfile(copy.data.dir / "clone" / "train.bin", np.uint16)
    tokens[5] = 3  # not a token of the clone
    rewrite(copy, artefacts["clone"], "train.bin", tokens.tobytes())
    with pytest.raises(UserError, match=r"token ids outside 600\.\.1199: found 1; expected 0"):
        verify(copy)
    assert digest(open_data(copy).artefacts["clone"].files) != digest(artefacts["clone"].files)
