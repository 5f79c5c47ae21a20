"""Bytes of weights, gradients and optimizer state on a rank, exact for DeepSpeed 0.19 as `prealign.distributed.engine`
sets it up: tests compare them with the tensors of real engines.

With ``n`` the elements of a rank's (tensor) share of a parameter group, ``N`` that number padded to a multiple of twice
the ``p`` ranks, and ``P`` the sum of its parameters' elements over ``p``, each rounded up (2 bytes are bf16's):

    ZeRO    weights    gradients    masters and moments
    0       2 n        2 n          12 n (fp32: 8 n, the weights are the masters)
    1       2 N        2 n          12 N / p
    2       2 N        2 x the parameters that the rank's share of N touches     12 N / p
    3       2 P        2 P          12 P
            and on several ranks p shares of those of at most 10^5 elements

Gradients are what is kept between two micro-batches; where bf16's add up in fp32 (a step of several micro-batches, but
for ZeRO 0) they are 4 N, 4 N / p and 4 P.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prealign.config.model import ModelConfig
from prealign.model.shapes import parameter_shapes
from prealign.planning.layout import Layout, Workload

PERSISTENT = 100_000
"""Elements up to which ZeRO-3 keeps a parameter whole on every rank, beside its share."""

_WIDE = 4
_ALIGNMENT = 2
"""Elements that ZeRO aligns the share of a rank to."""


Groups = tuple[tuple[int, ...], ...]
"""Elements of each parameter, group by group."""


@dataclass(frozen=True)
class States:
    """Bytes. ``step``: what the optimizer step takes for a moment; ``host``: of offloaded state, in host memory."""

    weights: int
    gradients: int
    optimizer: int
    step: int = 0
    host: int = 0


def states(work: Workload, layout: Layout, gpus: int, rank: int | None = None) -> States:
    """Of ``rank`` among the ranks that ZeRO shards over, or the most of any of them."""
    groups = parameter_groups(work.model, work.vocab_size, layout.tensor_size)
    ranks = layout.state_size(gpus)
    accumulated = 4 if layout.accumulates_wide(work.sequences, gpus) else layout.itemsize
    found = _states(groups, layout.zero_stage, layout.itemsize, accumulated, ranks, rank)
    if layout.offload:
        return States(found.weights, found.gradients, 0, found.step, found.optimizer)
    return found


@lru_cache(maxsize=64)
def parameter_groups(model: ModelConfig, vocab_size: int, tensor_size: int) -> Groups:
    """Elements of the parameters that decay (matrices), and of those that do not, in the model's order."""
    shapes = list(parameter_shapes(model, vocab_size, tensor_size).values())
    matrices = tuple(math.prod(shape) for shape in shapes if len(shape) >= 2)
    return matrices, tuple(math.prod(shape) for shape in shapes if len(shape) < 2)


@lru_cache(maxsize=4096)
def _states(
    groups: Groups, zero_stage: int, itemsize: int, gradient_itemsize: int, ranks: int, rank: int | None
) -> States:
    if zero_stage == 0:
        return _replicated(groups, itemsize)
    if zero_stage == 3:
        return _sharded(groups, itemsize, gradient_itemsize, ranks)
    return _flat(groups, zero_stage, itemsize, gradient_itemsize, ranks, rank)


def _replicated(groups: Groups, itemsize: int) -> States:
    count = sum(map(sum, groups))
    narrow = itemsize < _WIDE  # masters are apart, and get their gradients in fp32 for the step
    return States(itemsize * count, itemsize * count, (12 if narrow else 8) * count, 4 * count if narrow else 0)


def _flat(
    groups: Groups, zero_stage: int, itemsize: int, gradient_itemsize: int, ranks: int, rank: int | None
) -> States:
    padded = [_up(sum(group), _ALIGNMENT * ranks) for group in groups]
    shares = [count // ranks for count in padded]
    if gradient_itemsize > itemsize:  # one buffer of all gradients, or of a rank's share
        gradients = gradient_itemsize * (sum(padded) if zero_stage == 1 else sum(shares))
    elif zero_stage == 1:
        gradients = itemsize * sum(map(sum, groups))
    else:
        touched = [_touched(group, share, ranks) for group, share in zip(groups, shares)]
        by_rank = [sum(counts) for counts in zip(*touched)]
        gradients = itemsize * (max(by_rank) if rank is None else by_rank[rank])
    step = (itemsize + _WIDE) * max(shares)  # a group's gradients, joined and then in fp32
    return States(itemsize * sum(padded), gradients, 12 * sum(shares), step)


def _sharded(groups: Groups, itemsize: int, gradient_itemsize: int, ranks: int) -> States:
    shares = [sum(-(-count // ranks) for count in group) for group in groups]
    small = [count for group in groups for count in group if count <= PERSISTENT]
    # gathered from equal shares; alone, a rank's share is the whole parameter
    whole = sum(ranks * -(-count // ranks) for count in small) if ranks > 1 else 0
    own = sum(shares)
    return States(itemsize * (own + whole), gradient_itemsize * own, 12 * own, _WIDE * max(shares))


def _touched(group: Sequence[int], share: int, ranks: int) -> list[int]:
    """For every rank, elements of the parameters that have some in its flat share."""
    totals, offset = [0] * ranks, 0
    for count in group:
        for rank in range(offset // share, min(ranks, -(-(offset + count) // share))):
            totals[rank] += count
        offset += count
    return totals


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
