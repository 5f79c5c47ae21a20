"""``python -m prealign.planning.record``: the plan's MFU beside what others published (`record.yaml`).

``--rates 0.84``: as it were if cards reached that share of every rate, to see what would explain a difference; no plan
takes it.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from prealign.config.model import ModelConfig
from prealign.planning.cluster import Cluster
from prealign.planning.cost import StageLoad, run_cost
from prealign.planning.layout import Layout, Workload
from prealign.planning.rates import Rates, rates_of

_MPT = {"tied_embeddings": True}
_LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
_MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "mpt-1b": (50_368, {"layers": 24, "hidden_size": 2048, "heads": 16, **_MPT}),
    "mpt-3b": (50_368, {"layers": 32, "hidden_size": 2560, "heads": 20, **_MPT}),
    "mpt-7b": (50_368, {"layers": 32, "hidden_size": 4096, "heads": 32, **_MPT}),
    "mpt-13b": (50_368, {"layers": 40, "hidden_size": 5120, "heads": 40, **_MPT}),
    "megatron-1.7b": (131_072, {"layers": 24, "hidden_size": 2048, "heads": 16}),
    "megatron-7.1b": (131_072, {"layers": 30, "hidden_size": 4096, "heads": 32}),
    "nanotron-1.34b": (
        131_072,
        {"layers": 16, "hidden_size": 2048, "heads": 32, "ffn_size": 8192, "tied_embeddings": True, **_LLAMA},
    ),
    "nanotron-3.57b": (
        131_072,
        {"layers": 28, "hidden_size": 3072, "heads": 32, "ffn_size": 8192, "tied_embeddings": True, **_LLAMA},
    ),
    "nanotron-8.86b": (131_072, {"layers": 32, "hidden_size": 4096, "heads": 32, "ffn_size": 14_336, **_LLAMA}),
}
"""Rows of the embedding table, and shape; the parameters of each are those that its source gives."""


@dataclass(frozen=True)
class Row:
    """A published step and the plan's. ``published``, ``planned``: MFU in %."""

    source: str
    device: str
    model: str
    context: int
    gpus: int
    layout: Layout
    published: float
    planned: float

    @property
    def difference(self) -> float:
        """MFU points by which the plan is above."""
        return self.planned - self.published


def rows(share: float = 1.0) -> Iterator[Row]:
    """All rows of the record, planned with that share of all rates of a card."""
    for entry in yaml.safe_load(Path(__file__).with_name("record.yaml").read_text(encoding="utf-8")):
        for values in entry["rows"]:
            yield _row(share, entry, *values)


def _row(
    share: float,
    entry: dict[str, Any],
    name: str,
    context: int,
    gpus: int,
    micro: int,
    passes: int,
    every: int,
    tensor_size: int,
    zero_stage: int,
    published: float,
) -> Row:
    vocabulary, shape = _MODELS[name]
    model = ModelConfig(context=context, **shape)
    layout = Layout(zero_stage, tensor_size, 1, micro, every or None, every or None, overlap=zero_stage == 3)
    layout = replace(layout, **entry["options"])
    cluster = Cluster.of(entry["device"], gpus)
    # others' losses are not fused, as far as is known
    work = Workload(
        model, vocabulary, micro * passes * layout.data_size(gpus), fused_cross_entropy=entry.get("fused", False)
    )
    load = StageLoad("pretrain", work, 1)
    cost = run_cost([load], [layout], cluster, _part_of(rates_of(cluster.device), share))
    planned = 100 * cost.stages[0].mfu
    return Row(entry["source"], entry["device"], name, context, gpus, layout, published, planned)


def _part_of(rates: Rates, share: float) -> Rates:
    names = ("products", "copy", "attention", "elementwise", "optimizer")
    return replace(rates, **{name: share * getattr(rates, name) for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, default=1.0, metavar="SHARE", help="of all rates of a card (1)")
    found = list(rows(parser.parse_args().rates))
    for row in found:
        print(
            f"{row.device:5} {row.model:15} {row.context:6,} tokens {row.gpus:4} GPUs  published {row.published:5.1f}  "
            f"planned {row.planned:5.1f}  {row.difference:+5.1f}"
        )
    for source in dict.fromkeys(row.source for row in found):
        differences = [row.difference for row in found if row.source == source]
        near = sum(abs(value) <= 6 for value in differences)
        mean = sum(map(abs, differences)) / len(differences)
        print(f"{source}: {near} of {len(differences)} within 6 points, {mean:.1f} off on average")


if __name__ == "__main__":
    main()
