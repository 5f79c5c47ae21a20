"""All words of all ranks, one layer at a time; the next layer travels while one is worked on."""

from collections.abc import Iterator

import torch
import torch.distributed as dist


def shard(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The contiguous share ``[begin, end)`` of a rank: sizes differ by at most one, larger ones first."""
    base, extra = divmod(size, ranks)
    begin = rank * base + min(rank, extra)
    return begin, begin + base + (rank < extra)


def gather_rows(local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Concatenate the ranks' rows ``[W_local, ...]`` to ``[total, ...]``; shares as `shard` deals them."""
    return _Gather(local, total, group).wait()


def gathered_layers(
    z: torch.Tensor, total: int, group: dist.ProcessGroup | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``(own, everyone)`` per layer of ``z`` ``[layers, W_local, D]``: ``[W_local, D]`` and ``[total, D]``, contiguous.

    The gather of a layer starts before the layer before it is used; two layers are in memory at a time.
    """
    following = _Gather(z[0].contiguous(), total, group) if len(z) else None
    for layer in range(len(z)):
        current = following
        if layer + 1 < len(z):
            following = _Gather(z[layer + 1].contiguous(), total, group)
        assert current is not None
        yield current.local, current.wait()


class _Gather:
    """An all-gather of uneven shares, under way."""

    def __init__(self, local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> None:
        self.local = local
        self._work = None
        if group is None or dist.get_world_size(group) == 1:
            return
        ranks = dist.get_world_size(group)
        self._sizes = [end - begin for begin, end in (shard(total, rank, ranks) for rank in range(ranks))]
        padded = local
        if len(local) < self._sizes[0]:
            padded = local.new_zeros((self._sizes[0], *local.shape[1:]))
            padded[: len(local)] = local
        self._parts = [torch.empty_like(padded) for _ in range(ranks)]
        self._work = dist.all_gather(self._parts, padded, group=group, async_op=True)
        self._padded = padded  # kept until the work is done

    def wait(self) -> torch.Tensor:
        """All rows."""
        if self._work is None:
            return self.local
        self._work.wait()
        return torch.cat([part[:size] for part, size in zip(self._parts, self._sizes)])
