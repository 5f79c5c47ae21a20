"""What a finished run folder says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.config import Recipe, load_recipe
from prealign.distributed.weights import read_state
from prealign.errors import UserError
from prealign.files import json_rows
from prealign.training.operations import Operations
from prealign.training.plan import Account
from prealign.training.run import finished_account


@dataclass(frozen=True)
class Run:
    """A run under a label; runs of one label differ in their seed."""

    label: str
    folder: Path
    recipe: Recipe
    rows: list[dict[str, Any]]
    account: Account

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluation rows in order of tokens; of two at one number of tokens (a stage's end, the next one's start) the
        first."""
        distinct = {row["tokens"]: row for row in reversed(self.rows) if row["kind"] == "eval"}
        return [distinct[tokens] for tokens in sorted(distinct)]

    @property
    def align_steps(self) -> int:
        """Steps of the align stage, be it the run's own or that of the run it started from."""
        own = max((row["step"] for row in self.rows if row["stage"] == "align"), default=0)
        if own or self.recipe.pretrain.init_from is None:
            return own
        return self.account.steps - max(row["step"] for row in self.rows if row["stage"] == "pretrain")

    @property
    def flops(self) -> float:
        """Training operations of the run."""
        return Operations(self.recipe).of(self.account, self.align_steps)


def read_run(argument: str) -> Run:
    """``LABEL=FOLDER`` or ``FOLDER`` (labelled by its recipe's name). Raises `UserError` for what is no finished
    run."""
    label, equals, path = argument.rpartition("=")
    folder = Path(path)
    recipe_path = folder / "recipe.yaml"
    metrics_path = folder / "metrics.jsonl"
    for file in (recipe_path, metrics_path):
        if not file.is_file():
            raise UserError(f"{file}: no such file; expected the folder of a finished run")
    recipe = load_recipe(str(recipe_path))
    rows = json_rows(metrics_path.read_text(encoding="utf-8", errors="replace"))
    recipe = recipe.model_copy(update={"run_dir": folder})
    account = finished_account(recipe)
    last = recipe.stages[-1]
    if read_state(folder / last / "weights") is None or not any(row["kind"] == "eval" for row in rows):
        raise UserError(f"{folder}: its {last} stage has not finished; run launchers/pretrain.py to its end first")
    return Run(label if equals else recipe.name, folder, recipe, rows, account)
