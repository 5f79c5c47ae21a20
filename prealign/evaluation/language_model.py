"""Perplexity and bits per byte on held-out text."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from prealign.config import Recipe
from prealign.corpus.loader import MicroBatch
from prealign.corpus.prepared import PreparedData
from prealign.corpus.switching import IGNORED
from prealign.distributed.world import World
from prealign.objectives.inputs import ModelInputs, text_inputs


@dataclass(frozen=True)
class LanguageModelResult:
    """``nats``: summed negative log-likelihood of ``tokens`` targets, whose text is ``bytes`` long in UTF-8."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / math.log(2.0) / self.bytes


def evaluate_language(
    model: torch.nn.Module,
    recipe: Recipe,
    data: PreparedData,
    world: World,
    language: str,
) -> LanguageModelResult | None:
    """Likelihood of the first ``evaluation.tokens`` held-out tokens, in windows of the context that do not overlap.

    ``model`` maps `ModelInputs` to `ModelOutputs`; all ranks call this and share the windows. A text shorter than a
    window is one window. None if there is nothing to predict.
    """
    context = recipe.model.context
    store = data.heldout(language)
    predicted = min(len(store) - 1, recipe.evaluation.tokens)
    if predicted < 1:
        return None
    windows = max(1, predicted // context)
    rows = recipe.batch.micro_batch_size
    nats = torch.zeros(2, dtype=torch.float64, device=world.device)
    for first in range(0, windows, rows * world.row_ranks):
        mine = first + world.row_rank * rows + np.arange(rows)
        batch = _windows(store.tokens, mine, windows, context)
        text = text_inputs(batch, world.device, recipe.document_ends, world.exchange)
        with torch.no_grad():
            outputs = model(ModelInputs(text, None))
        nats[0] += outputs["token_losses"].double().sum()
        nats[1] += (text.targets != IGNORED).sum()
    world.sum(nats)
    last = min(windows * context, len(store) - 1)
    return LanguageModelResult(float(nats[0]), int(nats[1]), data.heldout_bytes(language, store.tokens[1 : last + 1]))


def _windows(tokens: np.ndarray, numbers: np.ndarray, windows: int, context: int) -> MicroBatch:
    """Rows of the numbered windows; numbers past the last, and positions past the text, have no targets."""
    inputs = np.zeros((len(numbers), context), dtype=np.int64)
    targets = np.full((len(numbers), context), IGNORED, dtype=np.int64)
    for row, number in enumerate(numbers):
        if number < windows:
            part = tokens[number * context : (number + 1) * context + 1].astype(np.int64)
            inputs[row, : len(part) - 1] = part[:-1]
            targets[row, : len(part) - 1] = part[1:]
    return MicroBatch(torch.from_numpy(inputs), torch.from_numpy(targets), (), torch.zeros(3, dtype=torch.int64))
