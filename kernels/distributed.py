"""All words of all ranks, one layer at a time; the next layer travels while one is worked on."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist


def shard(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The contiguous share ``[begin, end)`` of a rank: sizes differ by at most one, larger ones first."""
    base, extra = size // ranks, size % ranks  # divmod does not trace
    begin = rank * base + min(rank, extra)
    return begin, begin + base + (rank < extra)


def gather_rows(local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Concatenate the ranks' rows ``[W_local, ...]`` to ``[total, ...]``; shares as `shard` deals them."""
    return _Gather(local, total, group).wait()


def gathered_layers(
    z: Sequence[torch.Tensor], total: int, group: dist.ProcessGroup | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``(own, everyone)`` per layer of ``z``, tensors ``[W_local, D]``: that and ``[total, D]``, contiguous.

    The gather of a layer starts before the layer before it is used; two layers are in memory at a time.
    """
    following = _Gather(z[0].contiguous(), total, group) if len(z) else None
    for layer in range(len(z)):
        assert following is not None
        current, following = following, None
        if layer + 1 < len(z):
            following = _Gather(z[layer + 1].contiguous(), total, group)
        own, everyone = current.local, current.wait()
        del current
        yield own, everyone


class _Gather:
    """An all-gather of uneven shares, under way; the shares travel at the size of the largest."""

    def __init__(self, local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> None:
        self.local = local
        self._work = None
        if group is None or dist.get_world_size(group) == 1:
            return
        ranks = dist.get_world_size(group)
        self._sizes = [end - begin for begin, end in (shard(total, rank, ranks) for rank in range(ranks))]
        largest = self._sizes[0]
        self._padded = local
        if len(local) < largest:
            self._padded = local.new_zeros((largest, *local.shape[1:]))
            self._padded[: len(local)] = local
        self._all = local.new_empty((ranks * largest, *local.shape[1:]))
        self._work = dist.all_gather_into_tensor(self._all, self._padded, group=group, async_op=True)

    def wait(self) -> torch.Tensor:
        """All rows."""
        if self._work is None:
            return self.local
        self._work.wait()
        largest = self._sizes[0]
        if min(self._sizes) == largest:
            return self._all
        parts = self._all.split(largest)
        return torch.cat([part[:size] for part, size in zip(parts, self._sizes)])
