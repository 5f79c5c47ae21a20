"""A user's own hook sees every step of every stage, after the trainer's; so what a user adds is one function."""

import json
from pathlib import Path

from tests.conftest import tiny_recipe
from tests.processes import ROOT, finish, metrics, start, train_arguments

HOOK = """
import json, runpy, sys
from prealign.errors import run
from prealign.training.stage import StageRun
from prealign.training.step import StepSums

def note(training: StageRun, sums: StepSums) -> None:
    seen = {"stage": training.stage.name, "step": training.step, "saved": training.progress.saved} | sums.row()
    if training.world.is_first:
        with open(__file__ + ".jsonl", "a") as file:
            file.write(json.dumps(seen) + "\\n")

sys.argv[0] = "launchers/pretrain.py"
run(lambda: runpy.run_path("launchers/pretrain.py")["main"]([note]))
"""


def test_a_hook_sees_every_step(data_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(HOOK)
    recipe = tiny_recipe(data_dir, log={"every": 1}, checkpoint={"every": 4})
    _, *arguments = train_arguments(recipe, tmp_path / "run")
    code, _, error = finish(start([str(script), *arguments], 2, cwd=ROOT))
    assert code == 0, error
    seen = [json.loads(line) for line in Path(f"{script}.jsonl").read_text().splitlines()]
    logged = [row for row in metrics(tmp_path / "run") if row["kind"] == "train"]
    assert [(row["stage"], row["step"]) for row in seen] == [(row["stage"], row["step"]) for row in logged]
    assert [row["lm_loss"] for row in seen] == [row["lm_loss"] for row in logged]
    assert {row["saved"] for row in seen if row["stage"] == "align"} == {None, 4, 8, 10}  # after the trainer's hooks
