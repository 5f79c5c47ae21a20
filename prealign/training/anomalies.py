"""Steps whose loss or gradient is not finite, or whose loss leaps: what becomes of their update, and a record of their
batch.

Decisions are made from sums over all ranks, so they are the same on each of them; what they depend on (the last losses)
goes into the checkpoint and what they did is in the run folder, so a run that was interrupted decides alike.
"""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prealign.config import Recipe
from prealign.data.loader import Located, StageDataset
from prealign.distributed.engine import Engine, step_optimizer
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.files import write_atomically

_TEXTS = 8


class RolledBack(Exception):  # noqa: N818 - a decision
    """The stage must go on from its last checkpoint; the message is a line for the user."""


class AnomalyGuard:
    """Takes a stage's optimizer steps, all or not all of them."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        dataset: StageDataset,
        decode: Callable[[np.ndarray], str],
        folder: Path,
        step: int,
        state: dict[str, Any] | None,
        say: Callable[[str], None],
    ) -> None:
        """``folder``: the stage's; ``step``: steps made so far; ``state``: `state` of the checkpoint that the stage
        goes on from; ``decode``: token ids -> text. All ranks call it."""
        self._settings = recipe.anomalies
        self._batch = recipe.batch
        self._sources = list(recipe.sources)
        self._world = world
        self._dataset = dataset
        self._decode = decode
        self._folder = folder / "anomalies"
        self._step = step
        self._losses = deque[float](state.get("objective_losses", ()) if state else (), maxlen=self._settings.window)
        self._say = say
        without, passed = world.first(_on_record(self._folder) if world.is_first else (set(), set()))
        self._passed: set[int] = passed
        self._without: set[int] = {old for old in without if old <= step} | passed

    @property
    def state(self) -> dict[str, Any]:
        """What the decisions of later steps depend on, as plain values."""
        return {"objective_losses": list(self._losses)}

    def step(
        self,
        engine: Engine,
        loss: float,
        gradient_norm: float | torch.Tensor | None,
        sample_nats: list[torch.Tensor],
    ) -> None:
        """Take the engine's optimizer step, with or without its update; the schedule moves in either case.

        ``loss``: of the whole step, the same on all ranks. ``gradient_norm``: where it is known before the step.
        ``sample_nats``: nats of this rank's sequences. Raises `RolledBack` or `UserError`, as the recipe has it.
        """
        self._step += 1
        kind = self._judge(loss, gradient_norm)
        withheld = self._step in self._passed or self._action(kind) not in (None, "report")
        if not step_optimizer(engine, withheld):
            kind = kind or "gradient not finite"
        if self._step in self._passed:
            return
        if kind is None:
            self._losses.append(loss)
        else:
            self._answer(kind, loss, gradient_norm, sample_nats)

    def _judge(self, loss: float, gradient_norm: float | torch.Tensor | None) -> str | None:
        if not math.isfinite(loss):
            return "loss not finite"
        if gradient_norm is not None and not math.isfinite(float(gradient_norm)):
            return "gradient not finite"
        if len(self._losses) == self._settings.window:
            mean, deviation = statistics.fmean(self._losses), statistics.stdev(self._losses)
            if loss > mean + self._settings.sigmas * deviation:
                return f"loss {(loss - mean) / max(deviation, 1e-12):.1f} standard deviations above its mean"
        return None

    def _action(self, kind: str | None) -> str | None:
        if kind is None:
            return None
        return self._settings.nonfinite if kind.endswith("not finite") else self._settings.spike

    def _answer(
        self, kind: str, loss: float, gradient_norm: float | torch.Tensor | None, sample_nats: list[torch.Tensor]
    ) -> None:
        action, step = self._action(kind), self._step
        self._without |= {step} if action != "report" else set()
        recent = [old for old in self._without if step - self._settings.window < old <= step]
        asked = action
        if action in ("skip", "rollback") and len(recent) > self._settings.limit:
            action = "stop"
        passed = list(range(max(1, step - self._settings.rollback_batches + 1), step + 1))
        samples = self._samples(sample_nats)
        path = self._folder / f"step-{step}.json"
        if self._world.is_first:
            record = {"step": step, "kind": kind, "action": action, "loss": _plain(loss)}
            record["gradient_norm"] = None if gradient_norm is None else _plain(float(gradient_norm))
            if action == "rollback":
                record["passed"] = passed
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(record | {"samples": samples}, indent=1, ensure_ascii=False) + "\n")
        self._world.barrier()
        found = f"step {step}: {kind} (loss {loss:.4g}); its samples are in {path}"
        if action == "stop":
            stage = self._folder.parent.name
            why = f"anomalies.limit={self._settings.limit} is passed" if asked != "stop" else "as anomalies says"
            raise UserError(
                f"{stage}, {found}; stopped, {why}; expected finite, steady losses; look at the samples; change "
                f"anomalies and go on from the last checkpoint, which is whole, or lower {stage}.learning_rate in "
                f"another run_dir"
            )
        if action == "rollback":
            raise RolledBack(f"{found}; going back to the last checkpoint, without the update of {passed}")
        self._say(f"{found}; " + ("its update is left out" if action == "skip" else "going on"))

    def _samples(self, sample_nats: list[torch.Tensor]) -> list[dict[str, Any]]:
        """The step's samples with their place in the corpus and their loss, the worst first; all ranks call it."""
        size = self._batch.global_batch_size
        samples = np.arange((self._step - 1) * size, self._step * size)
        source, epoch, window = self._dataset.locate(samples)
        nats = torch.zeros(size, dtype=torch.float64, device=self._world.device)
        first = self._world.dp_rank * (size // self._world.dp_size)
        for rows in sample_nats:
            places = np.arange(first, first + len(rows))
            places = places[np.argsort(source[places], kind="stable")]  # as `StageDataset` sorts its rows
            nats[torch.from_numpy(places).to(nats.device)] = rows.to(nats)
            first += len(rows)
        self._world.sum(nats)
        listed = [
            {
                "sample": int(samples[i]),
                "language": self._sources[source[i]],  # ``LANGUAGE.NAME`` where it is an extra text's
                "epoch": int(epoch[i]),
                "window": int(window[i]),
                "nats": _plain(float(nats[i])),
            }
            for i in range(size)
        ]
        order = sorted(range(size), key=lambda i: (math.isfinite(nats[i]), -float(nats[i])))
        for i in order[:_TEXTS]:
            place = Located(source[i : i + 1], epoch[i : i + 1], window[i : i + 1])
            listed[i]["text"] = self._decode(self._dataset[place, 1][0].inputs[0].numpy())
        return [listed[i] for i in order]


def _on_record(folder: Path) -> tuple[set[int], set[int]]:
    """Steps without their update, and those of them that a rollback passes over."""
    without, passed = set(), set()
    for path in folder.glob("step-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["action"] in ("skip", "rollback"):
            without.add(record["step"])
        passed |= set(record.get("passed", []))
    return without, passed


def _plain(value: float) -> float | str:
    """JSON has no NaN."""
    return value if math.isfinite(value) else str(value)
