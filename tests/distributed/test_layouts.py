"""Whole runs in real processes: the same losses for every number of ranks and every ZeRO stage."""

from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe
from tests.conftest import tiny_recipe
from tests.processes import train

LAYOUTS = [(1, 0, 1, 1), (2, 0, 1, 1), (2, 1, 1, 1), (2, 2, 1, 1), (2, 3, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2)]
"""Ranks, ZeRO stage, tensor ranks, sequence ranks."""


def short(data_dir: Path, zero_stage: int, tensor: int = 1, sequence: int = 1, **changes: Any) -> Recipe:
    """20 steps of each stage."""
    changes = {
        "languages": {
            "en": {"tokens": 17_408, "text": tiny_recipe(data_dir).languages["en"].model_dump()["text"]},
            "clone": {"tokens": 8_000, "clone_of": "en", "clone_share": 0.2},
        },
        "align": {"fraction": 0.205, "global_batch_size": 8, "words_per_step": 45, "learning_rate": 1e-3},
        "parallel": {
            "precision": "fp32",
            "zero_stage": zero_stage,
            "tensor_parallel_size": tensor,
            "sequence_parallel_size": sequence,
        },
    } | changes
    return tiny_recipe(data_dir, **changes)


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("layouts")
    return {
        (ranks, *layout): train(short(data_dir, *layout), folder / "-".join(map(str, (ranks, *layout))), ranks)
        for ranks, *layout in LAYOUTS
    }


def test_both_stages_run_twenty_steps(runs: dict[tuple[int, ...], list[dict[str, Any]]]) -> None:
    steps = [(row["stage"], row["step"]) for row in runs[LAYOUTS[0]] if row["kind"] == "train"]
    assert [step for stage, step in steps if stage == "align"] == list(range(1, 21))
    assert len([step for stage, step in steps if stage == "pretrain"]) >= 20


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids="{0[0]} ranks, ZeRO {0[1]}, tensor {0[2]}, sequence {0[3]}".format)
def test_losses_do_not_depend_on_the_layout(
    runs: dict[tuple[int, ...], list[dict[str, Any]]], layout: tuple[int, ...]
) -> None:
    assert len(runs[layout]) == len(runs[LAYOUTS[0]])
    for row, expected in zip(runs[layout], runs[LAYOUTS[0]]):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            if key in ("kind", "stage", "step", "tokens", "switch_ratio", "switch_ratio_all_words"):
                assert row[key] == value
            elif key == "gradient_norm":  # a square root of sums in another order
                assert row[key] == pytest.approx(value, rel=1e-4)
            elif key == "alignment":
                found, wanted = (values["clone"]["table"] for values in (row[key], value))
                for measured in ("cosine", "margin", "centred"):
                    assert found[measured] == pytest.approx(wanted[measured], abs=1e-5)
            elif "cosine" in key:
                assert row[key] == pytest.approx(value, abs=1e-5)
            else:
                assert row[key] == pytest.approx(value, rel=1e-5), (row["stage"], row["step"], key)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 3])
def test_bf16_and_checkpointed_blocks_train(data_dir: Path, tmp_path: Path, stage: int) -> None:
    recipe = short(
        data_dir,
        stage,
        parallel={"precision": "bf16", "zero_stage": stage, "activation_checkpointing": "full"},
        model={"reset_at_document": True},
    )
    rows = train(recipe, tmp_path / "run", 2)
    losses = [row["lm_loss"] for row in rows if row["kind"] == "train" and row["stage"] == "pretrain"]
    assert losses[-1] < losses[0] - 0.1
    aligned = [row["align_loss"] for row in rows if row["kind"] == "train" and row["stage"] == "align"]
    assert aligned[-1] < 0.8 * aligned[0]


@pytest.mark.slow
def test_compiled_blocks_give_the_same_losses(
    runs: dict[tuple[int, ...], list[dict[str, Any]]], data_dir: Path, tmp_path: Path
) -> None:
    recipe = short(data_dir, 1, parallel={"precision": "fp32", "zero_stage": 1, "compile": True})
    rows = train(recipe, tmp_path / "run", 2)
    losses = [(row["step"], row["lm_loss"]) for row in rows if row["kind"] == "train"]
    expected = [(row["step"], row["lm_loss"]) for row in runs[LAYOUTS[0]] if row["kind"] == "train"]
    assert losses == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in expected]
