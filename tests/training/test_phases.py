"""A run whose mixture changes: weights from a step on, facts in a period, a clone at word level; interrupted, it is the
same run."""

from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe
from prealign.distributed.weights import read_state
from prealign.preparation.pipeline import prepare
from tests.conftest import tiny_recipe
from tests.processes import finish, metrics, start, train, train_arguments


@pytest.fixture(scope="module")
def phased(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("phased")
    (folder / "facts.txt").write_text("The Zorblax lives in Bath.\n\nCatherine was born in the abbey.")
    english = tiny_recipe(folder).model_dump(mode="json")["languages"]["en"]
    facts = {"text": {"files": [str(folder / "facts.txt")]}, "tokens": 1024, "active": [8, 12]}
    recipe = tiny_recipe(
        folder / "data",
        languages={
            "en": english | {"tokens": None, "weight": 1, "sources": {"facts": facts}},
            "clone": {"weight": 0, "clone_of": "en", "clone_share": 0.2, "clone_level": "word"},
        },
        mixture={"tokens": 15_360, "phases": [{"from_step": 14, "weights": {"clone": 2}}]},
        align={"fraction": 0.2, "words_per_step": 32},
    )
    prepare(recipe, say=lambda line: None)
    return recipe


@pytest.fixture(scope="module")
def run(phased: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(phased, folder)
    return folder


def losses(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(folder) if row["kind"] == "train"]


@pytest.mark.slow
def test_an_interrupted_run_is_the_same(phased: Recipe, run: Path, tmp_path: Path) -> None:
    train(phased, tmp_path / "parts", 1, "--stop-after", "10")
    train(phased, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(run)


def test_weights_change_at_their_step(run: Path) -> None:
    rows = {row["step"]: row for row in losses(run) if row["stage"] == "pretrain"}
    assert len(rows) > 20
    assert [step for step, row in rows.items() if "lm_loss/clone" in row] == list(range(15, len(rows) + 1))


def test_the_check_shows_what_the_run_consumes(phased: Recipe, run: Path, tmp_path: Path) -> None:
    code, out, err = finish(start([*train_arguments(phased, tmp_path / "checked"), "--check"]))
    assert code == 0, err
    assert "  en.facts: 1,024 tokens of text (" in out
    lines = [line for line in out.splitlines() if line.startswith("  steps ")]
    assert lines[0] == "  steps 0 to 8, 128 samples: en 100 % (128)"
    assert lines[1] == "  steps 8 to 12, 64 samples: en 50 % (32), en.facts 50 % (32)"
    assert lines[2] == "  steps 12 to 14, 32 samples: en 100 % (32)"
    assert lines[3].startswith("  steps 14 to 2")
    state = read_state(run / "pretrain" / "weights")
    assert state is not None
    planned = dict.fromkeys(phased.languages, 0)
    for line in out.splitlines():
        name, _, rest = line.strip().partition(": ")
        if name in phased.sources:
            planned[name.partition(".")[0]] += int(rest.split()[0].replace(",", ""))
    assert state["text"] == planned


def test_a_range_that_no_step_has_is_refused_before_the_align_stage(phased: Recipe, tmp_path: Path) -> None:
    arguments = train_arguments(phased, tmp_path / "run")
    code, _, err = finish(start([*arguments, "languages.en.sources.facts.active=[8, 60]"]))
    assert code == 2
    assert "languages.en.sources.facts.active: found [8, 60]; the pretrain stage has " in err
    assert not (tmp_path / "run" / "align").exists()
