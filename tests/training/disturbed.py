"""`launchers/pretrain.py` with something that goes wrong at a chosen step: DISTURB=KIND@STEP[@RANK].

The step counts within the pretrain stage, from 1. Kinds: ``nan`` and ``leap`` (of the loss), ``raise``, ``kill`` (-9),
``hang``, ``no_space`` (files may grow to 100 kB from there on), ``no_room`` (the disk is full for six steps).
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

from prealign.objectives.joint import JointModel
from prealign.training import stage

ROOT = Path(__file__).resolve().parents[2]
kind, step, *ranks = os.environ["DISTURB"].split("@")
factor = {"nan": float("nan"), "leap": 50.0}.get(kind)
poisoned = False
usual_step, usual_forward, usual_room = stage.take_step, JointModel.forward, stage.has_room


def disturbed_step(engine: Any, recipe: Any, world: Any, micro: Any, words: Any, clock: Any, guard: Any) -> Any:
    global poisoned
    here = words is None and guard._step + 1 == int(step) and str(world.rank) in (ranks or [str(world.rank)])
    poisoned = here and factor is not None
    if here and kind == "raise":
        raise ValueError("this batch cannot be")
    if here and kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if here and kind == "hang":
        time.sleep(1000)
    if here and kind == "no_space":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    if kind == "no_room" and words is None:
        full = int(step) <= guard._step + 1 < int(step) + 6
        stage.has_room = (lambda *arguments: False) if full else usual_room
    return usual_step(engine, recipe, world, micro, words, clock, guard)


def disturbed_forward(self: JointModel, inputs: Any) -> Any:
    outputs = usual_forward(self, inputs)
    if poisoned and torch.is_grad_enabled():
        for name in ("loss", "token_losses"):
            outputs[name] = outputs[name] * factor
    return outputs


stage.take_step = disturbed_step
JointModel.forward = disturbed_forward
sys.argv[0] = "launchers/pretrain.py"
runpy.run_path(str(ROOT / "launchers" / "pretrain.py"), run_name="__main__")
