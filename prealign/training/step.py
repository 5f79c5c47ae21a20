"""One optimizer step, and what it measured."""

from typing import Any

import torch

from prealign.config import Recipe
from prealign.data.loader import MicroBatch
from prealign.data.switching import IGNORED
from prealign.data.word_batches import WordBatch
from prealign.distributed.engine import Engine, plain_gradient_norm
from prealign.distributed.world import World
from prealign.objectives.inputs import ModelInputs, TextInputs, text_inputs, word_inputs
from prealign.objectives.joint import ModelOutputs
from prealign.training.anomalies import AnomalyGuard
from prealign.training.clock import Clock


def take_step(
    engine: Engine,
    recipe: Recipe,
    world: World,
    micro: list[MicroBatch],
    words: WordBatch | None,
    clock: Clock,
    guard: AnomalyGuard | None = None,
) -> "StepSums":
    """Forward and backward of a step's micro-batches on this rank, then the optimizer.

    Negatives are all words of the step, so the words go through one pass, the first. A token's loss is divided by the
    number of targets of the whole step, over all ranks and micro-batches; the engine averages over both, and ``share``
    takes that back. ``guard`` may withhold the update.
    """
    sums = StepSums(recipe, world)
    share = world.data_ranks * len(micro)
    with clock.part("data"):
        texts = [text_inputs(batch, world.device, recipe.document_ends, world.exchange) for batch in micro]
        targets = torch.stack([(text.targets != IGNORED).sum() for text in texts]).sum()
        text_scale = share / world.sum(targets).clamp(min=1)
    for number, (batch, text) in enumerate(zip(micro, texts)):
        with clock.part("data"):
            mine = None
            if words is not None and number == 0:
                place = (world.data_rank, world.data_ranks, world.device)
                mine = word_inputs(words, *place, recipe.align.include_self)
        with clock.part("forward"):
            outputs = engine(ModelInputs(text, mine, text_scale, share))
        with clock.part("backward"):
            engine.backward(outputs["loss"])
        sums.add(text, outputs, batch.words)
        if number == len(micro) - 1 and recipe.parallel.zero_stage == 0 and recipe.parallel.precision == "fp32":
            sums.gradient_norm = float(plain_gradient_norm(engine))
        with clock.part("optimizer"):
            if guard is not None and number == len(micro) - 1:
                guard.step(engine, sums.loss(), sums.gradient_norm, sums.sample_nats)
            else:
                engine.step()
    if sums.gradient_norm is None:
        sums.gradient_norm = engine.get_global_grad_norm()
    return sums


class StepSums:
    """Sums of one step's losses and counts on this rank; `row` adds up the ranks."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        self._languages = list(recipe.languages)
        self._language_of_source = recipe.language_of_source
        self._layers = recipe.align.layers
        self._world = world
        self._nats = torch.zeros(len(self._languages), dtype=torch.float64, device=world.device)
        self.targets = torch.zeros_like(self._nats)
        """Positions with a target, by language."""
        self._words = torch.zeros(3, dtype=torch.float64)
        self._align: torch.Tensor | None = None
        self.gradient_norm: float | torch.Tensor | None = None
        """Global norm before clipping."""
        self.sample_nats: list[torch.Tensor] = []
        """Summed nats of each sequence (of this rank's part of it), per micro-batch, in the order of its rows."""

    def add(self, text: TextInputs, outputs: ModelOutputs, words: torch.Tensor) -> None:
        """Take in one forward pass; ``words`` as in `MicroBatch`."""
        losses = outputs["token_losses"]
        assert losses is not None
        shape = (text.group.rows, text.group.length)
        rows = losses.detach().view(shape).sum(dim=1, dtype=torch.float64)
        targets = (text.targets != IGNORED).view(shape).sum(dim=1).to(rows)
        self.sample_nats.append(rows)
        parts = zip(rows.split(text.rows_per_language), targets.split(text.rows_per_language))
        for language, (nats, count) in zip(self._language_of_source, parts):
            self._nats[language] += nats.sum()
            self.targets[language] += count.sum()
        self._words += words
        if outputs["align_losses"] is not None and outputs["cosines"] is not None:
            self._align = torch.stack((outputs["align_losses"], outputs["cosines"])).double()

    def loss(self) -> float:
        """Mean loss per target plus alignment loss, over all ranks; all ranks call it and get the same number.

        It waits for the device, once a step: the guard decides on an update before it is made, and the engine's step,
        which follows, reads whether gradients overflowed at the same point.
        """
        align = self._align[0].sum() if self._align is not None else self._nats.new_zeros(())
        total = self._world.sum(torch.stack((self._nats.sum(), self.targets.sum(), align.to(self._nats))))
        return float(total[0] / total[1].clamp(min=1) + total[2])

    def row(self) -> dict[str, Any]:
        """The step's numbers over all ranks: mean loss per target, in all and per language; alignment loss and mean
        cosine of positives, in all and per layer; share of words replaced, among those with a translation and among
        all."""
        layers = self._align.shape[1] if self._align is not None else 0
        flat = [self._nats, self.targets, self._words.to(self._nats.device)]
        if self._align is not None:
            flat.append(self._align.flatten())
        total = self._world.sum(torch.cat(flat)).tolist()
        count = len(self._languages)
        nats, targets, (words, eligible, switched) = (
            total[:count],
            total[count : 2 * count],
            total[2 * count : 2 * count + 3],
        )
        row: dict[str, Any] = {"lm_loss": sum(nats) / max(sum(targets), 1)}
        if self.gradient_norm is not None:
            row["gradient_norm"] = float(self.gradient_norm)
        row |= {f"lm_loss/{name}": n / t for name, n, t in zip(self._languages, nats, targets) if t > 0}
        if layers:
            losses, cosines = total[2 * count + 3 :][:layers], total[2 * count + 3 :][layers:]
            row |= {"align_loss": sum(losses), "align_loss_layers": losses, "align_cosine_layers": cosines}
            if self._layers != "all":
                row["align_layers"] = self._layers
        if eligible > 0:
            row |= {"switch_ratio": switched / eligible, "switch_ratio_all_words": switched / words}
        return row
