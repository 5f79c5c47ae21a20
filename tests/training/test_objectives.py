"""A third objective is one file: a function of what a forward pass has computed."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tiny_recipe
from tests.processes import ROOT, finish, metrics, start, train_arguments

ACTIVATION_PENALTY = """
import runpy, sys
import torch
from prealign.errors import run
from prealign.objectives.terms import Term

WEIGHT = float(sys.argv.pop(1))

def activation_penalty(inputs, features):
    if inputs.step_targets is None or features.hidden_states is None:
        return None
    squares = features.hidden_states.float().square()
    count = torch.tensor(squares.numel(), device=squares.device)
    return Term(WEIGHT * squares.mean() / inputs.passes, {"activations": (squares.detach().sum(), count)})

sys.argv[0] = "launchers/pretrain.py"
run(lambda: runpy.run_path("launchers/pretrain.py")["main"](objectives=[activation_penalty]))
"""


def rows(data_dir: Path, folder: Path, weight: float) -> list[dict[str, Any]]:
    """Logged steps of a run with the penalty."""
    folder.mkdir()
    script = folder / "penalty.py"
    script.write_text(ACTIVATION_PENALTY)
    recipe = tiny_recipe(data_dir, log={"every": 1})
    _, *arguments = train_arguments(recipe, folder / "run")
    code, _, error = finish(start([str(script), str(weight), *arguments], 2, cwd=ROOT))
    assert code == 0, error
    return [row for row in metrics(folder / "run") if row["kind"] == "train"]


def test_a_run_goes_on_with_its_objectives(data_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "penalty.py"
    script.write_text(ACTIVATION_PENALTY)
    launcher, *arguments = train_arguments(tiny_recipe(data_dir), tmp_path / "run")
    with_it = [str(script), "1.0", *arguments, "--stop-after", "4"]
    assert finish(start(with_it, 1, cwd=ROOT))[0] == 0
    code, _, error = finish(start([launcher, *arguments], 1, cwd=ROOT))
    assert code == 2
    assert "trained with the objectives ['activation_penalty'] beside the recipe's; this start has []" in error
    assert finish(start([str(script), "1.0", *arguments, "--stop-after", "6"], 1, cwd=ROOT))[0] == 0


def test_a_third_objective(data_dir: Path, tmp_path: Path) -> None:
    without, with_it = rows(data_dir, tmp_path / "without", 0.0), rows(data_dir, tmp_path / "with", 1000.0)
    assert len(without) == len(with_it)
    assert without[0]["activations"] == pytest.approx(with_it[0]["activations"], rel=1e-4)
    assert with_it[-1]["activations"] < 0.8 * without[-1]["activations"]
    assert all("lm_loss" in row for row in with_it)
    assert all("align_loss" in row for row in with_it if row["stage"] == "align")
