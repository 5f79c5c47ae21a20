"""The layout with which a run takes least, and what limits it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prealign.errors import UserError
from prealign.planning.cluster import Cluster
from prealign.planning.cost import NOTHING, RunCost, StageLoad, divisor, run_cost
from prealign.planning.facts import Facts
from prealign.planning.layout import Layout, Workload
from prealign.planning.rates import Rates

_MICRO = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
_RECOMPUTE: tuple[tuple[int | None, int | None], ...] = ((None, None), (None, 2), (None, 1), (2, 2), (2, 1), (1, 1))
"""Every so many-th block, in passes of text and of words."""
_NOTABLE = 0.01
"""Share of a run's time below which nothing is said to limit it."""


@dataclass(frozen=True)
class Recommendation:
    """``best``: the fastest that fits, None where nothing does; ``fastest``: if memory were no object; ``smallest``:
    that which takes least memory. None: no layout divides the batch. ``measured``: the fastest that fits
    of those of which a stage was measured."""

    best: RunCost | None
    fastest: RunCost | None
    smallest: RunCost | None
    measured: RunCost | None = None


def recommend(
    loads: Sequence[StageLoad],
    layouts: Sequence[Layout],
    cluster: Cluster,
    rates: Rates,
    price: float | None = None,
    facts: Facts = NOTHING,
) -> Recommendation:
    """Search ZeRO stage, tensor size, micro-batch and recomputation, the rest as in ``layouts``, and what ``facts``
    have of such a run."""
    found = [run_cost(loads, chosen, cluster, rates, price, facts) for chosen in _candidates(loads, layouts, cluster)]
    measured = list(_measured_costs(loads, layouts, cluster, rates, price, facts))
    found += measured
    fitting = [cost for cost in found if cost.fits]
    return Recommendation(
        _simplest(fitting) if fitting else None,
        min(found, key=lambda cost: cost.seconds, default=None),
        min(found, key=lambda cost: cost.peak.peak_bytes, default=None),
        min((cost for cost in measured if cost.fits), key=lambda cost: cost.seconds, default=None),
    )


def _measured_costs(
    loads: Sequence[StageLoad],
    layouts: Sequence[Layout],
    cluster: Cluster,
    rates: Rates,
    price: float | None,
    facts: Facts,
) -> Iterator[RunCost]:
    """Layouts of which a stage was measured, whatever the search tries."""
    names, works = [load.name for load in loads], [load.work for load in loads]
    for chosen in facts.layouts(names, works, layouts, cluster.gpus):
        try:
            cost = run_cost(loads, chosen, cluster, rates, price, facts)
        except UserError:  # its ranks do not divide the run's batch
            continue
        if any(stage.measured is not None for stage in cost.stages):
            yield cost


def _simplest(costs: Sequence[RunCost]) -> RunCost:
    """Of those within a percent of the fastest the one that shards least and recomputes least."""
    least = min(cost.seconds for cost in costs)
    near = [cost for cost in costs if cost.seconds <= (1 + _NOTABLE) * least]

    def order(cost: RunCost) -> tuple[int, int, float, float]:
        layout = cost.stages[-1].layout
        again = sum(1 / every for every in (layout.recompute, layout.recompute_words) if every)
        return layout.tensor_size, layout.zero_stage, round(cost.seconds / least, 3) + again, cost.peak.peak_bytes

    return min(near, key=order)


def limits(found: Recommendation) -> list[str]:
    """What keeps the best layout from being faster, in words."""
    if found.best is None or found.fastest is None:
        return []
    lines = []
    gain = 1 - found.fastest.seconds / found.best.seconds
    if gain > _NOTABLE:
        failed = ", and was out of memory" if found.fastest.too_large else ""
        lines.append(
            f"memory: {layout_words(found.fastest.stages[-1].layout)} would take {100 * gain:.0f} % less time, and "
            f"{found.fastest.peak.peak_bytes / 1e9:.0f} GB a card{failed}"
        )
    parts: dict[str, float] = {}
    for stage in found.best.stages:
        for name, seconds in stage.time.seconds.items():
            parts[name] = parts.get(name, 0.0) + stage.load.steps * seconds
    total = sum(parts.values())  # as planned, whatever was measured
    largest = sorted(parts.items(), key=lambda item: -item[1])
    named = [f"{name} {100 * seconds / total:.0f} %" for name, seconds in largest if seconds > _NOTABLE * total]
    return [*lines, ", ".join(named)]


def layout_words(layout: Layout) -> str:
    """A layout in a line."""
    return (
        f"ZeRO {layout.zero_stage}, tensor size {layout.tensor_size}, {layout.micro_batch_size} rows a micro-batch, "
        f"recomputation {recompute_words(layout)}{', compiled' if layout.compiled else ''}"
    )


def recompute_words(layout: Layout) -> str:
    """Values of `parallel.activation_checkpointing`: in passes of text, and where it is another, in those of words."""
    text, words = ({None: "none", 1: "full"}.get(every, every) for every in (layout.recompute, layout.recompute_words))
    return f"{text}" if text == words else f"{text}, words {words}"


def _candidates(loads: Sequence[StageLoad], layouts: Sequence[Layout], cluster: Cluster) -> Iterator[list[Layout]]:
    """Layouts of all stages that divide batches and model, each once."""
    has_words = any(load.work.words for load in loads)
    recomputed = _RECOMPUTE if has_words else tuple((text, text) for text in (None, 2, 1))
    for tensor_size in (1, 2, 4, 8):
        if not _splits(tensor_size, layouts[0].sequence_size, loads[0].work, cluster):
            continue
        groups = cluster.gpus // (tensor_size * layouts[0].sequence_size)
        if any(load.work.sequences % groups for load in loads):
            continue
        rows = sorted({divisor(loads[-1].work.sequences // groups, most) for most in _MICRO}, reverse=True)
        for zero_stage in (0, 1, 2, 3) if groups * layouts[0].sequence_size > 1 else (layouts[0].zero_stage,):
            for most in rows:
                for text, words in recomputed:
                    yield [
                        replace(
                            layout,
                            zero_stage=zero_stage,
                            tensor_size=tensor_size,
                            micro_batch_size=divisor(load.work.sequences // groups, most),
                            recompute=text,
                            recompute_words=words,
                            overlap=zero_stage == 3 or (layout.overlap and layout.zero_stage != 3),
                            compile=False if zero_stage == 3 and layout.compile is True else layout.compile,
                        )
                        for load, layout in zip(loads, layouts)
                    ]


def _splits(tensor_size: int, sequence_size: int, work: Workload, cluster: Cluster) -> bool:
    """Whether the model divides by the tensor ranks, which lie in a node."""
    model = work.model
    if tensor_size * sequence_size > cluster.per_node or cluster.gpus % (tensor_size * sequence_size):
        return False
    sizes = (model.heads // sequence_size, model.resolved_ffn_size)
    return model.kv_heads_divide(tensor_size) and all(size % tensor_size == 0 for size in sizes)
