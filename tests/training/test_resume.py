"""Killed at any moment and started again by the same command, a run gives the losses of an undisturbed one, bit for
bit."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe
from tests.conftest import tiny_recipe
from tests.model.families import FAMILIES
from tests.processes import finish, metrics, start, train, train_arguments


def recipe_of(data_dir: Path, zero_stage: int) -> Recipe:
    english = tiny_recipe(data_dir).languages["en"].model_dump()
    return tiny_recipe(
        data_dir,
        languages={
            "en": english | {"tokens": 17_408},
            "clone": {"tokens": 8_000, "clone_of": "en", "clone_share": 0.2},
        },
        align={"fraction": 0.4, "words_per_step": 45},
        pretrain={"align_every": 3},
        parallel={"precision": "fp32", "zero_stage": zero_stage},
        checkpoint={"every": 4, "keep": 2},
        evaluation={"every": 7, "tokens": 2000, "probe_words": 50},
    )


def kill_after(recipe: Recipe, folder: Path, rows: int, ranks: int) -> bool:
    """Start a run and kill -9 all its ranks once its metrics have ``rows`` rows; False if it had finished by then."""
    processes = start(train_arguments(recipe, folder), ranks)
    path = folder / "metrics.jsonl"
    while any(process.poll() is None for process in processes):
        if path.is_file() and path.read_text().count("\n") >= rows:
            time.sleep(random.random() * 0.05)  # anywhere within a step, an evaluation or a save
            for process in processes:
                process.send_signal(signal.SIGKILL)
            for process in processes:
                process.communicate()
            return True
        time.sleep(0.01)
    finish(processes)
    return False


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {stage: train(recipe_of(data_dir, stage), folder / str(stage), 2) for stage in (1, 3)}


@pytest.mark.parametrize(
    ("zero_stage", "rows"),
    [
        (1, 19),
        pytest.param(1, 3, marks=pytest.mark.slow),
        pytest.param(1, 30, marks=pytest.mark.slow),
        pytest.param(3, 33, marks=pytest.mark.slow),
    ],
)
def test_killed_and_started_again(
    undisturbed: dict[int, list[dict[str, Any]]], data_dir: Path, tmp_path: Path, zero_stage: int, rows: int
) -> None:
    recipe = recipe_of(data_dir, zero_stage).model_copy(update={"loader_workers": 1})  # words from a process as well
    folder = tmp_path / "run"
    assert kill_after(recipe, folder, rows, ranks=2), "the run ended before it could be killed"
    assert train(recipe, folder, 2) == undisturbed[zero_stage]


@pytest.mark.slow
def test_another_family_goes_on_as_well(data_dir: Path, tmp_path: Path) -> None:
    model = {"layers": 2, "hidden_size": 32, "heads": 4, "context": 32} | FAMILIES["qwen3"]
    recipe = recipe_of(data_dir, 1)
    recipe = Recipe.model_validate(recipe.model_dump(mode="json") | {"model": model})
    undisturbed = train(recipe, tmp_path / "whole", 2)
    assert kill_after(recipe, tmp_path / "run", 19, ranks=2)
    assert train(recipe, tmp_path / "run", 2) == undisturbed


@pytest.mark.slow
def test_killed_again_and_again(undisturbed: dict[int, list[dict[str, Any]]], data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data_dir, 1)
    folder = tmp_path / "run"
    for rows in (12, 24, 36):
        kill_after(recipe, folder, rows, ranks=2)
    assert train(recipe, folder, 2) == undisturbed[1]


def test_a_finished_run_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data_dir, 1)
    first = train(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    assert train(recipe, tmp_path / "run") == first
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == before
    assert [row["step"] for row in metrics(tmp_path / "run") if row["kind"] == "eval"][-1] == first[-1]["step"]


def test_stages_alone_and_a_shared_align_stage(data_dir: Path, tmp_path: Path) -> None:
    """One stage at a time gives what both in one go give; another run starts from the same align weights."""
    recipe = recipe_of(data_dir, 1)
    together = train(recipe, tmp_path / "both")
    aligned = train(recipe, tmp_path / "apart", 1, "--stage", "align")
    assert {row["stage"] for row in aligned} == {"align"}
    assert train(recipe, tmp_path / "apart", 1, "--stage", "pretrain") == together
    values = recipe.model_dump() | {"stages": ["pretrain"]}
    values["pretrain"] |= {"init_from": str(tmp_path / "apart")}
    shared = train(Recipe.model_validate(values), tmp_path / "shared")
    assert shared == [row for row in together if row["stage"] == "pretrain"]


@pytest.mark.parametrize(
    ("change", "ranks", "message"),
    [
        ({"seed": 2}, 1, "the run there has seed=1; the recipe has seed=2"),
        ({"parallel": {"precision": "bf16"}}, 1, 'has parallel.precision="fp32"; the recipe has'),
    ],
)
def test_a_run_goes_on_only_as_it_began(data_dir: Path, tmp_path: Path, change: dict, ranks: int, message: str) -> None:
    recipe = recipe_of(data_dir, 1)
    assert kill_after(recipe, tmp_path / "run", 12, ranks=1)
    changed = Recipe.model_validate(recipe.model_dump() | change)
    code, _, stderr = finish(start(train_arguments(changed, tmp_path / "run"), ranks))
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr
