"""All words of all ranks, some layers at a time; the next ones travel while these are worked on."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

LEAST_SENT = 1 << 20
"""Bytes that a rank gives to a gather, if its layers have as many: a gather passes every rank in turn and takes some
microseconds of each, in which a megabyte travels."""

WORKSPACE = 1 << 29
"""Bytes of gathered vectors in memory, if two layers take no more."""


def shard(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The contiguous share ``[begin, end)`` of a rank: sizes differ by at most one, larger ones first."""
    base, extra = size // ranks, size % ranks  # divmod does not trace
    begin = rank * base + min(rank, extra)
    return begin, begin + base + (rank < extra)


def gather_rows(local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Concatenate the ranks' rows ``[W_local, ...]`` to ``[total, ...]``; shares as `shard` deals them."""
    shares = _Shares(total, group)
    if shares.ranks == 1:
        return local
    everyone = local.new_empty((shares.ranks, shares.largest, *local.shape[1:]))
    dist.all_gather_into_tensor(everyone.flatten(0, 1), shares.padded(local), group=group)
    return everyone.flatten(0, 1) if shares.even else torch.cat(shares.without_padding(everyone))


def layers_a_gather(layers: int, words: int, size: int, itemsize: int, ranks: int) -> int:
    """How many of ``layers`` travel together, ``words`` vectors ``[size]`` each, of all ranks: one where a rank has a
    megabyte of it, else more of them, up to all."""
    share = max(1, -(-words // ranks) * size * itemsize)
    wanted = -(-LEAST_SENT // share)
    fitting = WORKSPACE // (ranks * share)
    return max(1, min(wanted, layers if fitting >= layers else fitting // 2, layers))


def gathered_layers(
    z: Sequence[torch.Tensor], total: int, group: dist.ProcessGroup | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``(own, everyone)`` per layer of ``z``, tensors ``[W_local, D]``: that and ``[total, D]``, contiguous; on several
    ranks ``everyone`` is good until the next layer is asked for.

    Two gathers (`layers_a_gather`) are in memory at a time: each starts when the one before it is about to be used, and
    is written over the one before that. Beside them lies one layer of ``everyone`` where it must be put together: of
    layers that travel together, or of uneven shares.
    """
    shares = _Shares(total, group)
    layers = [layer.contiguous() for layer in z]
    if shares.ranks == 1 or not layers:
        yield from zip(layers, layers)
        return
    size = layers[0].shape[1]
    together = layers_a_gather(len(layers), total, size, layers[0].element_size(), shares.ranks)
    parts = [layers[first : first + together] for first in range(0, len(layers), together)]
    places = [layers[0].new_empty((shares.ranks * together * shares.largest, size)) for _ in parts[:2]]
    everyone = None if shares.even and together == 1 else layers[0].new_empty((total, size))
    following = shares.start(parts[0], places[0])
    for number, part in enumerate(parts):
        current, place = following, places[number % 2]
        if number + 1 < len(parts):  # into a place whose readers are done, or before it in the device's queue
            following = shares.start(parts[number + 1], places[(number + 1) % 2])
        current.wait()
        for own, gathered in zip(part, shares.arrived(len(part), place)):
            if everyone is None:
                yield own, gathered.flatten(0, 1)
            else:
                yield own, torch.cat(shares.without_padding(gathered), out=everyone)


class _Shares:
    """How ``total`` rows are dealt to the ranks of a group; they travel at the size of the largest share."""

    def __init__(self, total: int, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.ranks = 1 if group is None else dist.get_world_size(group)
        self._sizes = [end - begin for begin, end in (shard(total, rank, self.ranks) for rank in range(self.ranks))]
        self.largest = self._sizes[0]
        self.even = self._sizes[-1] == self.largest

    def padded(self, local: torch.Tensor) -> torch.Tensor:
        """A rank's rows, as many as the largest share has."""
        if len(local) == self.largest:
            return local
        padded = local.new_zeros((self.largest, *local.shape[1:]))
        padded[: len(local)] = local
        return padded

    def without_padding(self, gathered: torch.Tensor) -> list[torch.Tensor]:
        """The ranks' rows of ``[ranks, largest, ...]``."""
        return [part[:size] for part, size in zip(gathered, self._sizes)]

    def start(self, layers: list[torch.Tensor], place: torch.Tensor) -> dist.Work:
        """Gather some layers ``[W_local, D]`` into the first rows of ``place``."""
        rows = self.ranks * len(layers) * self.largest
        padded = [self.padded(layer) for layer in layers]
        local = padded[0] if len(padded) == 1 else torch.cat(padded)
        return dist.all_gather_into_tensor(place[:rows], local, group=self.group, async_op=True)

    def arrived(self, layers: int, place: torch.Tensor) -> Sequence[torch.Tensor]:
        """What `start` gathered, for each of ``layers`` ``[ranks, largest, D]``."""
        return place[: self.ranks * layers * self.largest].view(self.ranks, layers, self.largest, -1).unbind(1)
