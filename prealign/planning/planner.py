"""What a run takes as its recipe has it, and the layout that takes least."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prealign.errors import UserError
from prealign.model.flops import model_body_parameters, model_token_flops
from prealign.planning.cluster import Cluster
from prealign.planning.layout import Layout, Workload
from prealign.planning.memory import USABLE, Memory, memory
from prealign.planning.rates import Rates
from prealign.planning.timing import StepTime, step_time

_MICRO = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
_RECOMPUTE: tuple[tuple[int | None, int | None], ...] = ((None, None), (None, 2), (None, 1), (2, 2), (2, 1), (1, 1))
"""Every so many-th block, in passes of text and of words."""
_NOTABLE = 0.01
"""Share of a run's time below which nothing is said to limit it."""


@dataclass(frozen=True)
class StageLoad:
    """A stage: one of its steps, and how many there are."""

    name: str
    work: Workload
    steps: int


@dataclass(frozen=True)
class StageCost:
    """What a stage takes with a layout."""

    load: StageLoad
    layout: Layout
    cluster: Cluster
    memory: Memory
    time: StepTime

    @property
    def seconds(self) -> float:
        """All its steps."""
        return self.load.steps * self.time.total

    @property
    def tokens_per_second(self) -> float:
        """Positions of text a second, over all cards."""
        return self.load.work.sequences * self.load.work.model.context / self.time.total

    @property
    def mfu(self) -> float:
        """Of the dense bf16 peak, by the convention of `prealign.model.flops`."""
        return step_flops(self.load.work) / self.time.total / self.cluster.gpus / self.cluster.device.peak


@dataclass(frozen=True)
class RunCost:
    """What all stages take. ``price``: of an hour of one card, in any currency."""

    stages: tuple[StageCost, ...]
    cluster: Cluster
    price: float | None = None

    @cached_property
    def seconds(self) -> float:
        """Steps alone: no start, no evaluation, no checkpoints, no failures."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return self.cluster.gpus * self.seconds / 3600

    @property
    def kilowatt_hours(self) -> float:
        """Of the cards at their power limit, without hosts and cooling."""
        return self.gpu_hours * self.cluster.device.watts / 1000

    @property
    def money(self) -> float | None:
        return None if self.price is None else self.gpu_hours * self.price

    @cached_property
    def peak(self) -> StageCost:
        """The stage that takes most memory."""
        return max(self.stages, key=lambda stage: stage.memory.peak)

    @property
    def fits(self) -> bool:
        return self.peak.memory.peak <= USABLE * self.cluster.device.memory


def step_flops(work: Workload) -> float:
    """Operations of a step over all ranks, as MFU counts them."""
    flops = work.sequences * work.model.context * model_token_flops(work.model, work.vocab_size)
    words = work.words * work.tokens_per_word * 6.0 * model_body_parameters(work.model)
    words += 6.0 * work.aligned_layers * work.anchors * work.words**2 * work.model.hidden_size
    return flops + words / work.words_every


def run_cost(
    loads: Sequence[StageLoad],
    layouts: Sequence[Layout],
    cluster: Cluster,
    rates: Rates,
    price: float | None = None,
) -> RunCost:
    """Of stages, each with its layout. Raises `UserError` where a global batch does not divide."""
    stages = []
    for load, layout in zip(loads, layouts):
        layout = _fitted(load, layout, cluster)
        used = memory(load.work, layout, cluster.gpus)
        stages.append(StageCost(load, layout, cluster, used, step_time(load.work, layout, cluster, rates)))
    return RunCost(tuple(stages), cluster, price)


@dataclass(frozen=True)
class Recommendation:
    """``best``: the fastest that fits, None where nothing does; ``fastest``: if memory were no object; ``smallest``:
    that which takes least memory. None: no layout divides the batch."""

    best: RunCost | None
    fastest: RunCost | None
    smallest: RunCost | None


def recommend(
    loads: Sequence[StageLoad],
    layouts: Sequence[Layout],
    cluster: Cluster,
    rates: Rates,
    price: float | None = None,
) -> Recommendation:
    """Search ZeRO stage, tensor size, micro-batch and recomputation; the rest is as in ``layouts``."""
    found = [run_cost(loads, chosen, cluster, rates, price) for chosen in _candidates(loads, layouts, cluster)]
    fitting = [cost for cost in found if cost.fits]
    return Recommendation(
        _simplest(fitting) if fitting else None,
        min(found, key=lambda cost: cost.seconds, default=None),
        min(found, key=lambda cost: cost.peak.memory.peak, default=None),
    )


def _simplest(costs: Sequence[RunCost]) -> RunCost:
    """Of those within a percent of the fastest the one that shards least and recomputes least."""
    least = min(cost.seconds for cost in costs)
    near = [cost for cost in costs if cost.seconds <= (1 + _NOTABLE) * least]

    def order(cost: RunCost) -> tuple[int, int, float, float]:
        layout = cost.stages[-1].layout
        again = sum(1 / every for every in (layout.recompute, layout.recompute_words) if every)
        return layout.tensor_size, layout.zero_stage, round(cost.seconds / least, 3) + again, cost.peak.memory.peak

    return min(near, key=order)


def limits(found: Recommendation) -> list[str]:
    """What keeps the best layout from being faster, in words."""
    if found.best is None or found.fastest is None:
        return []
    lines = []
    gain = 1 - found.fastest.seconds / found.best.seconds
    if gain > _NOTABLE:
        lines.append(
            f"memory: {layout_words(found.fastest.stages[-1].layout)} would take {100 * gain:.0f} % less time, and "
            f"{found.fastest.peak.memory.peak / 1e9:.0f} GB a card"
        )
    total = found.best.seconds
    parts: dict[str, float] = {}
    for stage in found.best.stages:
        for name, seconds in stage.time.seconds.items():
            parts[name] = parts.get(name, 0.0) + stage.load.steps * seconds
    largest = sorted(parts.items(), key=lambda item: -item[1])
    named = [f"{name} {100 * seconds / total:.0f} %" for name, seconds in largest if seconds > _NOTABLE * total]
    return [*lines, ", ".join(named)]


def layout_words(layout: Layout) -> str:
    """A layout in a line."""
    return (
        f"ZeRO {layout.zero_stage}, tensor size {layout.tensor_size}, {layout.micro_batch_size} rows a micro-batch, "
        f"recomputation {recompute_words(layout)}"
    )


def recompute_words(layout: Layout) -> str:
    """Values of `parallel.activation_checkpointing`: in passes of text, and where it is another, in those of words."""
    text, words = ({None: "none", 1: "full"}.get(every, every) for every in (layout.recompute, layout.recompute_words))
    return f"{text}" if text == words else f"{text}, words {words}"


def _fitted(load: StageLoad, layout: Layout, cluster: Cluster) -> Layout:
    """With the micro-batch that a rank's share of the step allows, as training has it."""
    groups = layout.data_size(cluster.gpus)
    if load.work.sequences % groups:
        raise UserError(
            f"{load.name}: found global_batch_size={load.work.sequences} on {groups} groups of ranks; expected a "
            f"multiple of {groups}"
        )
    return replace(layout, micro_batch_size=_divisor(load.work.sequences // groups, layout.micro_batch_size))


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
        rows = sorted({_divisor(loads[-1].work.sequences // groups, most) for most in _MICRO}, reverse=True)
        for zero_stage in (0, 1, 2, 3) if groups * layouts[0].sequence_size > 1 else (layouts[0].zero_stage,):
            for most in rows:
                for text, words in recomputed:
                    yield [
                        replace(
                            layout,
                            zero_stage=zero_stage,
                            tensor_size=tensor_size,
                            micro_batch_size=_divisor(load.work.sequences // groups, most),
                            recompute=text,
                            recompute_words=words,
                            overlap=zero_stage == 3 or (layout.overlap and layout.zero_stage != 3),
                            compile=layout.compile if zero_stage < 3 else False,
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


def _divisor(count: int, most: int) -> int:
    """The largest divisor up to ``most``."""
    return next(rows for rows in range(min(count, most), 0, -1) if count % rows == 0)
