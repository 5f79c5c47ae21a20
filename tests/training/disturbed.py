"""`launchers/pretrain.py` with something that goes wrong at a chosen step: DISTURB=KIND@STEP[@RANK].

The step counts within the pretrain stage, from 1; the first cannot be chosen. Kinds: ``nan`` and ``leap`` (of the
loss), ``raise``, ``kill`` (-9), ``hang``, ``no_space`` (files may grow to 100 kB from there on), ``no_room`` (the disk
is full for six steps).
"""

import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from prealign.errors import run
from prealign.objectives.joint import JointModel
from prealign.training import stage
from prealign.training.stage import StageRun
from prealign.training.step import StepSums

ROOT = Path(__file__).resolve().parents[2]
usual_forward, usual_room = JointModel.forward, stage.has_room


class Disturbance:
    """A hook that sees to what goes wrong in the step after."""

    def __init__(self, kind: str, step: str, rank: str | None = None) -> None:
        self.kind, self.step, self.rank = kind, int(step), rank
        self.factor = {"nan": float("nan"), "leap": 50.0}.get(kind)
        self.poisoned = 0
        """Forward passes that are left to be spoilt: those of one step."""

    def __call__(self, training: StageRun, sums: StepSums) -> None:
        coming = training.step + 1
        pretraining = training.stage.name == "pretrain"
        here = pretraining and coming == self.step and self.rank in (None, str(training.world.rank))
        spoils = here and self.factor is not None
        self.poisoned = training.recipe.accumulation(training.world.dp_size) if spoils else 0
        if here and self.kind == "raise":
            raise ValueError("this batch cannot be")
        if here and self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self.kind == "hang":
            time.sleep(1000)
        if here and self.kind == "no_space":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        if self.kind == "no_room" and pretraining:
            full = self.step <= coming < self.step + 6
            stage.has_room = (lambda *arguments: False) if full else usual_room

    def forward(self, model: JointModel, inputs: Any) -> Any:
        """In place of `JointModel.forward`."""
        outputs = usual_forward(model, inputs)
        if self.poisoned and torch.is_grad_enabled():
            self.poisoned -= 1
            for name in ("loss", "token_losses"):
                outputs[name] = outputs[name] * self.factor
            total, count = outputs["sums"]["lm_loss"]
            outputs["sums"]["lm_loss"] = total * self.factor, count
        return outputs


disturbance = Disturbance(*os.environ["DISTURB"].split("@"))
JointModel.forward = lambda self, inputs: disturbance.forward(self, inputs)
sys.argv[0] = "launchers/pretrain.py"
launcher = runpy.run_path(str(ROOT / "launchers" / "pretrain.py"))
run(lambda: launcher["main"]([disturbance]))
