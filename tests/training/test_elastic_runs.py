"""Runs that go on with other ranks and ZeRO stages, on damaged checkpoints, and on changed data."""

from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe
from tests.conftest import tiny_recipe
from tests.processes import finish, metrics, start, train, train_arguments

EXACT = {"kind", "stage", "step", "tokens", "switch_ratio", "switch_ratio_all_words", "learning_rate"}
"""Equal for every layout: which samples a step has, what is replaced in them, and the schedule."""


def recipe_of(data_dir: Path, zero_stage: int, micro: int = 4, tensor: int = 1, **changes: Any) -> Recipe:
    """25 steps of pretraining, a checkpoint at every 5th."""
    english = tiny_recipe(data_dir).languages["en"].model_dump()
    changes = {
        "languages": {
            "en": english | {"tokens": 8_800},
            "clone": {"tokens": 4_000, "clone_of": "en", "clone_share": 0.2},
        },
        "stages": ["pretrain"],
        "parallel": {"precision": "fp32", "zero_stage": zero_stage, "tensor_parallel_size": tensor},
        "batch": {"global_batch_size": 16, "micro_batch_size": micro},
        "checkpoint": {"every": 5, "keep": 3},
        "evaluation": {"every": 1000, "tokens": 500, "probe_words": 10},
    } | changes
    return tiny_recipe(data_dir, **changes)


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of two ranks with ZeRO 1."""
    return train(recipe_of(data_dir, 1), tmp_path_factory.mktemp("undisturbed") / "run", 2)


def assert_same_course(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [(row["kind"], row["step"]) for row in rows] == [(row["kind"], row["step"]) for row in expected]
    for row, other in zip(rows, expected):
        assert {key: row[key] for key in EXACT & row.keys()} == {key: other[key] for key in EXACT & other.keys()}
        losses = [key for key in other if "loss" in key or "perplexity" in key]
        assert [row[key] for key in losses] == pytest.approx([other[key] for key in losses], rel=1e-4), row["step"]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_damaged_checkpoint_and_another_layout(
    undisturbed: list[dict[str, Any]], data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(recipe_of(data_dir, 1), folder, 2, "--stop-after", "10")
    damaged = folder / "pretrain" / "checkpoints" / "step-10"
    flip(damaged / "rank-00001-000.safetensors", 5000)
    code, _, stderr = finish(start(train_arguments(recipe_of(data_dir, 3, micro=2), folder), 1))
    assert code == 0, stderr
    assert f"DAMAGED CHECKPOINT {damaged}: rank-00001-000.safetensors has SHA-256" in stderr
    layouts = ["{'ranks': 2, 'tensor_ranks': 1, 'zero_stage': 1}", "{'ranks': 1, 'tensor_ranks': 1, 'zero_stage': 3}"]
    assert f"written with {layouts[0]}; going on with {layouts[1]}" in stderr
    assert "Traceback" not in stderr
    assert_same_course(metrics(folder), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "course",
    [
        [(2, 1, 1), (1, 1, 1), (4, 1, 1), (2, 1, 1)],
        [(2, 1, 1), (2, 2, 1), (2, 3, 1), (2, 0, 1)],
        [(2, 0, 1), (1, 3, 1), (4, 2, 1), (2, 1, 1)],
        [(2, 1, 1), (2, 1, 2), (4, 2, 2), (1, 1, 1)],
    ],
    ids=["ranks 2-1-4-2", "ZeRO 1-2-3-0", "both", "tensor 1-2-2-1"],
)
def test_ranks_and_stages_change_again_and_again(
    undisturbed: list[dict[str, Any]], data_dir: Path, tmp_path: Path, course: list[tuple[int, int, int]]
) -> None:
    """``course``: ranks, ZeRO stage and tensor ranks of each part."""
    for number, (ranks, stage, tensor) in enumerate(course, start=1):
        options = ["--stop-after", str(6 * number)] if number < len(course) else []
        train(recipe_of(data_dir, stage, tensor=tensor), tmp_path / "run", ranks, *options)
    steps = {row["step"] for row in undisturbed if row["kind"] == "eval"}
    rows = [row for row in metrics(tmp_path / "run") if row["kind"] == "train" or row["step"] in steps]
    assert_same_course(rows, undisturbed)  # but for the evaluations where a part ended


def test_changed_data_is_refused_unless_allowed(
    data_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "run"
    train(recipe_of(data_dir, 1), folder, 1, "--stop-after", "5")
    manifest = folder / "pretrain" / "checkpoints" / "step-5"
    _change_fingerprint(manifest)
    code, _, stderr = finish(start(train_arguments(recipe_of(data_dir, 1), folder)))
    assert code == 2
    assert "trained on data 000000000000...;" in stderr
    assert "checkpoint.allow_changed_data=true" in stderr
    train(recipe_of(data_dir, 1), folder, 1, "--stop-after", "6", "checkpoint.allow_changed_data=true")
    assert [row["step"] for row in metrics(folder) if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


def _change_fingerprint(checkpoint: Path) -> None:
    from prealign.distributed.manifest import read_manifest, write_manifest

    manifest, _ = read_manifest(checkpoint)
    manifest["state"]["data"] = "0" * 64
    write_manifest(checkpoint, manifest)
