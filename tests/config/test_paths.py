"""Paths as users write them."""

import argparse
from pathlib import Path

import pytest

from prealign.config import load_recipe
from prealign.config.paths import expand, path_argument
from prealign.errors import UserError
from tests.conftest import tiny_recipe


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_home_and_variables(home: Path) -> None:
    assert expand("~/corpus/*.jsonl") == f"{home}/corpus/*.jsonl"
    assert expand("$SCRATCH/x") == expand("${SCRATCH}/x") == "/scratch/me/x"
    assert expand("a~b/c") == "a~b/c"
    with pytest.raises(ValueError, match=r"found '\$NOWHERE/x', but the environment has no \$NOWHERE; set it"):
        expand("$NOWHERE/x")


def test_what_is_there_by_that_name_stays(home: Path, tmp_path: Path) -> None:
    for name in ("$SCRATCH", "~", "$NOWHERE"):
        (tmp_path / name).write_text("x")
        assert expand(name) == name


def test_every_path_of_a_recipe(home: Path) -> None:
    text = {"files": ["~/en/*.jsonl", "$SCRATCH/en.jsonl"]}
    german = {"tokens": 10_240, "text": text, "dictionaries": ["~/en-de.txt", {"path": "${SCRATCH}/more.tsv"}]}
    recipe = tiny_recipe(
        Path("~/prepared"),
        languages={"en": {"tokens": 40_960, "text": text}, "de": german},
        run_dir="$SCRATCH/runs/a",
        pretrain={"init_from": "~/runs/b"},
        stages=["pretrain"],
        data={"tokenizer": {"ranks": "~/my.tiktoken", "vocab_size": 600}},
        evaluation={"parallel": {"de": "~/de.tsv"}, "nli": {"train": "~/train.tsv", "dev": "~/dev.tsv", "test": {}}},
        facts={"relations": "$SCRATCH/relations.yaml", "periods": 1},
    )
    shown = recipe.model_dump_json()
    assert "~" not in shown
    assert "$" not in shown
    assert recipe.data.dir == home / "prepared"
    assert recipe.languages["de"].dictionaries[1].path == "/scratch/me/more.tsv"


def test_in_a_file_and_on_the_command_line(home: Path) -> None:
    home.mkdir()
    (home / "mine.yaml").write_text("base: ~/other.yaml\n")
    (home / "other.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match="languages: missing"):  # found and read
        load_recipe("~/mine.yaml")
    with pytest.raises(UserError, match=r"--config: found '\$NOWHERE/a.yaml'"):
        load_recipe("$NOWHERE/a.yaml")
    with pytest.raises(UserError, match=r"data\.dir: found '\$NOWHERE/x', but the environment has no \$NOWHERE"):
        tiny_recipe(Path("$NOWHERE/x"))
    assert path_argument("~/x") == home / "x"
    with pytest.raises(argparse.ArgumentTypeError, match="NOWHERE"):
        path_argument("$NOWHERE/x")
