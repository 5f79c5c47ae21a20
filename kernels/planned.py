"""Relations with what the Triton passes work out of them, made beforehand."""

from dataclasses import replace

from prealign.kernels.distributed import shard
from prealign.kernels.rank_plan import plan_rank
from prealign.kernels.relations import Relations
from prealign.kernels.symmetric import plan_symmetric


def planned(relations: Relations, include_self: bool, rank: int = 0, ranks: int = 1) -> Relations:
    """The relations with the plan of one of the ranks that share the words: made once, it serves the forward and the
    backward pass. On one rank the plan of the upper triangle of pairs, where there can be one; else of rectangles."""
    plan = plan_symmetric(relations, include_self) if ranks == 1 else None
    if plan is not None:
        return replace(relations, plan=plan)
    begin, end = shard(len(relations), rank, ranks)
    return replace(relations, plan=plan_rank(relations, begin, end - begin, include_self))
