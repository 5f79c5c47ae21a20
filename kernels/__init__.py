"""Pooled multi-layer InfoNCE, and the kernel of the LM loss. Imported as ``prealign.kernels``; knows tensors and
process groups only."""

from prealign.kernels.distributed import shard
from prealign.kernels.infonce import multilayer_infonce
from prealign.kernels.planned import planned
from prealign.kernels.pool import pool_spans
from prealign.kernels.relations import Relations, csr, full_relations

__all__ = ["Relations", "csr", "full_relations", "multilayer_infonce", "planned", "pool_spans", "shard"]
