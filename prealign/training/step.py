"""One optimizer step, and what it measured."""

from typing import Any

import torch

from prealign.config import Recipe
from prealign.data.loader import MicroBatch
from prealign.data.switching import IGNORED
from prealign.distributed.engine import Engine, plain_gradient_norm
from prealign.distributed.world import World
from prealign.objectives.inputs import ModelInputs, TextInputs, WordInputs, text_inputs
from prealign.objectives.joint import ModelOutputs
from prealign.objectives.terms import Sums
from prealign.training.anomalies import AnomalyGuard
from prealign.training.clock import Clock


def take_step(
    engine: Engine,
    recipe: Recipe,
    world: World,
    micro: list[MicroBatch],
    words: WordInputs | None,
    clock: Clock,
    guard: AnomalyGuard | None = None,
) -> "StepSums":
    """Forward and backward of a step's micro-batches on this rank, then the optimizer.

    ``words``: this rank's, on the CPU. Negatives are all words of the step, so they go through one pass, the first.
    A token's loss is divided by the number of targets of the whole step, over all ranks and micro-batches. The engine
    averages gradients over ``passes``, replicas (sequence-parallel ranks are some) times micro-batches; the model
    multiplies by it, so that they are sums.
    ``guard`` may withhold the update.
    """
    passes = world.replicas * len(micro)
    sums = StepSums(world, passes)
    with clock.part("data"):
        texts = [
            text_inputs(batch, world.device, recipe.document_ends, world.exchange, recipe.language_of_source)
            for batch in micro
        ]
        targets = world.sum(torch.stack([(text.targets != IGNORED).sum() for text in texts]).sum()).clamp(min=1)
    for number, (batch, text) in enumerate(zip(micro, texts)):
        with clock.part("data"):
            local_words = words.to(world.device) if words is not None and number == 0 else None
        with clock.part("forward"):
            outputs = engine(ModelInputs(text, local_words, targets, passes))
        with clock.part("backward"):
            engine.backward(outputs["loss"])
        sums.add(text, outputs, batch.words)
        if number == len(micro) - 1 and recipe.parallel.zero_stage == 0 and recipe.parallel.weights == "fp32":
            sums.gradient_norm = float(plain_gradient_norm(engine))
        with clock.part("optimizer"):  # DeepSpeed updates at the last micro-batch, and counts the others
            if guard is not None and number == len(micro) - 1:
                guard.step(engine, sums.loss(), sums.gradient_norm, sums.sample_nats)
            else:
                engine.step()
    if sums.gradient_norm is None:
        sums.gradient_norm = engine.get_global_grad_norm()
    return sums


class StepSums:
    """What one step measured on this rank, by name (`Sums`); `row` adds up the ranks."""

    def __init__(self, world: World, passes: int) -> None:
        """``passes``: forward passes of the step over all ranks."""
        self._world = world
        self._passes = passes
        self._loss = torch.zeros((), dtype=torch.float64, device=world.device)
        self._sums: Sums = {}
        self.gradient_norm: float | torch.Tensor | None = None
        """Global norm before clipping."""
        self.sample_nats: list[torch.Tensor] = []
        """Summed nats of each sequence (of this rank's part of it), per micro-batch, in the order of its rows."""

    def add(self, text: TextInputs, outputs: ModelOutputs, words: torch.Tensor) -> None:
        """Take in one forward pass; ``words`` as in `MicroBatch`."""
        loss, token_losses = outputs["loss"], outputs["token_losses"]
        assert loss is not None
        assert token_losses is not None
        self._loss += loss.detach() / self._passes
        self.sample_nats.append(token_losses.detach().view(text.group.rows, -1).sum(dim=1, dtype=torch.float64))
        every, eligible, switched = words.to(self._loss, non_blocking=True)
        shares: Sums = {"switch_ratio": (switched, eligible), "switch_ratio_all_words": (switched, every)}
        for name, (total, count) in (outputs["sums"] | shares).items():
            before = self._sums.get(name)
            if before is not None:
                total = before[0] + total
                count = before[1] + count if before[1] is not None and count is not None else None
            self._sums[name] = (total, count)

    def count(self, name: str) -> torch.Tensor:
        """What a sum is divided by, on this rank."""
        count = self._sums[name][1]
        if count is None:
            raise KeyError(f"{name} has no count")
        return count

    def loss(self) -> float:
        """The step's loss, as it is differentiated, over all ranks; all ranks call it and get the same number.

        It waits for the device, once a step: the guard decides on an update before it is made, and the engine's step,
        which follows, reads whether gradients overflowed at the same point.
        """
        return float(self._world.sum(self._loss.clone()))

    def row(self) -> dict[str, Any]:
        """The step's numbers over all ranks, which all call it: what the objectives log, the gradient's norm, and the
        share of words replaced, among those with a translation and among all."""
        parts = [part for pair in self._sums.values() for part in pair if part is not None]
        added = self._world.sum(torch.cat([part.to(self._loss).reshape(-1) for part in parts]))
        total = iter(added.split([part.numel() for part in parts]))
        row: dict[str, Any] = {}
        if self.gradient_norm is not None:
            row["gradient_norm"] = float(self.gradient_norm)
        for name, (value, divisor) in self._sums.items():
            numbers = next(total)
            if divisor is not None:
                count = next(total)
                if not count.all():
                    continue
                numbers = numbers / count
            row[name] = numbers.tolist() if value.dim() else float(numbers)
        return row
