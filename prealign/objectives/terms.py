"""What an objective is: a function of one forward pass that gives a term of the loss and what to log of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from prealign.objectives.inputs import ModelInputs

Sums = dict[str, tuple[torch.Tensor, torch.Tensor | None]]
"""What a step logs, by name: (sum, count), each added up over forward passes and ranks and then divided; left out where
the count is 0. With None for a count the sum itself is logged. A sum is a scalar, or ``[n]``, logged as a list. Every
rank gives the same names in the same order, detached."""


@dataclass(frozen=True)
class Features:
    """What a forward pass has computed. Parts are None where the pass has no text, or no words.

    ``hidden_states``: after the final norm, of text tokens, ``[rows * length, D]``. ``nats``: summed cross-entropy of
    the tokens that have a target, a scalar. ``token_losses``: that of each token, ``[rows * length]``, 0 where there is
    no target; detached. ``word_vectors``: for every layer (input embedding, blocks, output embedding where it is
    untied) the unit-length means of this rank's words, ``[W_local, D]``.
    """

    hidden_states: torch.Tensor | None
    nats: torch.Tensor | None
    token_losses: torch.Tensor | None
    word_vectors: list[torch.Tensor] | None


class Term(NamedTuple):
    """A term of the loss, and what is logged. ``loss``: what this forward pass contributes; the step's loss is the sum
    over its passes on all ranks, so a mean over a pass is to be divided by `ModelInputs.passes`."""

    loss: torch.Tensor
    sums: Sums


Objective = Callable[[ModelInputs, Features], Term | None]
"""Gives None for a pass that it does not apply to. It has no parameters of its own: those that it trains are the
model's, by way of the features. Of a pass without words it keeps nothing and waits for no other rank: a pass may be
tried before the first step (`prealign.training.compilation`)."""
