"""Perplexity and bits per byte on held-out text; `seen_words.py` splits them at the words of the alignment table."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from prealign.config import Recipe
from prealign.data.loader import MicroBatch
from prealign.data.prepared import PreparedData
from prealign.data.switching import IGNORED
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
        """exp(nats per token). Rows that pad the LM head take part in the softmax, as in training."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / math.log(2.0) / self.bytes


@dataclass(frozen=True)
class HeldoutLosses:
    """``nats[i]``: loss of token ``i + 1`` of a held-out store, float64. ``seconds``: on this rank, and its forward
    passes alone."""

    nats: np.ndarray
    seconds: float
    forward_seconds: float


def evaluate_language(
    model: torch.nn.Module,
    recipe: Recipe,
    data: PreparedData,
    world: World,
    language: str,
) -> LanguageModelResult | None:
    """Likelihood of the first ``evaluation.tokens`` held-out tokens; see `heldout_losses`. None if there is nothing to
    predict."""
    losses = heldout_losses(model, recipe, data, world, language)
    return None if losses is None else summarise(losses, data, language)


def summarise(losses: HeldoutLosses, data: PreparedData, language: str) -> LanguageModelResult:
    """Sums over all tokens of `heldout_losses`."""
    count = len(losses.nats)
    size = data.heldout_bytes(language, data.heldout(language).tokens[1 : count + 1])
    return LanguageModelResult(float(losses.nats.sum()), count, size)


def heldout_losses(
    model: torch.nn.Module,
    recipe: Recipe,
    data: PreparedData,
    world: World,
    language: str,
) -> HeldoutLosses | None:
    """Losses of the first ``evaluation.tokens`` held-out tokens, in windows of the context, each ``evaluation.stride``
    tokens after the one before it.

    A window scores the tokens that no earlier one did: behind the first window, each has at least ``context - stride``
    tokens before it. ``model`` maps `ModelInputs` to `ModelOutputs`; all ranks call this, share the windows and get all
    losses. A text shorter than a window is one window. None if there is nothing to predict.
    """
    context = recipe.model.context
    stride = recipe.evaluation.stride or context
    store = data.heldout(language)
    predicted = min(len(store) - 1, recipe.evaluation.tokens)
    if predicted < 1:
        return None
    windows = 1 + max(0, predicted - context) // stride
    rows = recipe.batch.micro_batch_size
    nats = torch.zeros((windows, context), dtype=torch.float64, device=world.device)
    began, forward = time.perf_counter(), 0.0
    for first in range(0, windows, rows * world.dp_size):
        mine = first + world.dp_rank * rows + np.arange(rows)
        text = text_inputs(
            _windows(store.tokens[: predicted + 1], mine, windows, context, stride),
            world.device,
            recipe.document_ends,
            world.exchange,
        )
        started = time.perf_counter()
        with torch.no_grad():
            losses = model(ModelInputs(text, None))["token_losses"]
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        forward += time.perf_counter() - started
        inside = int((mine < windows).sum())
        if inside:
            begin = world.exchange.rank * text.group.length if world.exchange is not None else 0
            part = nats[mine[0] : mine[0] + inside, begin : begin + text.group.length]
            part.copy_(losses.view(rows, -1)[:inside])
    world.sum(nats)
    scored = torch.cat([nats[0], nats[1:, context - stride :].reshape(-1)])[:predicted]
    return HeldoutLosses(scored.cpu().numpy(), time.perf_counter() - began, forward)


def _windows(tokens: np.ndarray, numbers: np.ndarray, windows: int, context: int, stride: int) -> MicroBatch:
    """Rows of the numbered windows; numbers past the last, and positions past the text, have no targets."""
    inputs = np.zeros((len(numbers), context), dtype=np.int64)
    targets = np.full((len(numbers), context), IGNORED, dtype=np.int64)
    for row, number in enumerate(numbers):
        if number < windows:
            part = tokens[number * stride : number * stride + context + 1].astype(np.int64)
            inputs[row, : len(part) - 1] = part[:-1]
            targets[row, : len(part) - 1] = part[1:]
    sources, words = torch.zeros(len(numbers), dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    return MicroBatch(torch.from_numpy(inputs), torch.from_numpy(targets), sources, words)
