"""What a run takes with a layout: as planned, and as measured where it was."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prealign.errors import UserError
from prealign.model.flops import model_body_parameters, model_token_flops
from prealign.planning.cluster import Cluster
from prealign.planning.facts import Facts
from prealign.planning.layout import Layout, Workload
from prealign.planning.memory import USABLE, Memory, memory
from prealign.planning.rates import Rates
from prealign.planning.timing import StepTime, step_time

NOTHING = Facts()
"""Nothing was measured."""


@dataclass(frozen=True)
class StageLoad:
    """A stage: one of its steps, and how many there are."""

    name: str
    work: Workload
    steps: int


@dataclass(frozen=True)
class Measured:
    """What a sweep measured of a stage's step: ``seconds``, and ``memory`` in bytes at its peak. ``whole``: it was this
    step; else it had other micro-batches, or words in another share of steps, and both grew as the plan does. ``ran``:
    as much memory was there."""

    seconds: float
    memory: float
    whole: bool
    ran: bool
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        scaled = "" if self.whole else ", scaled to this step as planned"
        return f"measured ({' '.join(self.overrides)}{scaled})"


@dataclass(frozen=True)
class StageCost:
    """What a stage takes with a layout. ``memory``, ``time``: as planned; ``measured`` takes their place."""

    load: StageLoad
    layout: Layout
    cluster: Cluster
    memory: Memory
    time: StepTime
    measured: Measured | None = None

    @property
    def step_seconds(self) -> float:
        """Of a step, as measured where it was."""
        return self.time.total if self.measured is None else self.measured.seconds

    @property
    def peak_bytes(self) -> float:
        """As measured where it was."""
        return self.memory.peak if self.measured is None else self.measured.memory

    @property
    def fits(self) -> bool:
        """What ran fits."""
        ran = self.measured is not None and self.measured.ran
        return ran or self.peak_bytes <= USABLE * self.cluster.device.memory

    @property
    def seconds(self) -> float:
        """All its steps."""
        return self.load.steps * self.step_seconds

    @property
    def tokens_per_second(self) -> float:
        """Positions of text a second, over all cards."""
        return self.load.work.sequences * self.load.work.model.context / self.step_seconds

    @property
    def mfu(self) -> float:
        """Of the dense bf16 peak, by the convention of `prealign.model.flops`."""
        return step_flops(self.load.work) / self.step_seconds / self.cluster.gpus / self.cluster.device.peak


@dataclass(frozen=True)
class RunCost:
    """What all stages take. ``price``: of an hour of one card, in any currency. ``too_large``: it was measured, and out
    of memory."""

    stages: tuple[StageCost, ...]
    cluster: Cluster
    price: float | None = None
    too_large: bool = False

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
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def fits(self) -> bool:
        return not self.too_large and all(stage.fits for stage in self.stages)


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
    facts: Facts = NOTHING,
) -> RunCost:
    """Of stages, each with its layout; ``facts`` take the place of what is planned. Raises `UserError` where a global
    batch does not divide."""
    stages = [
        _stage_cost(load, _fitted(load, layout, cluster), cluster, rates, facts) for load, layout in zip(loads, layouts)
    ]
    works, fitted = [load.work for load in loads], [stage.layout for stage in stages]
    measured = all(stage.measured is not None for stage in stages)
    too_large = not measured and facts.too_large(works, fitted, cluster.gpus)
    return RunCost(tuple(stages), cluster, price, too_large)


def _stage_cost(load: StageLoad, layout: Layout, cluster: Cluster, rates: Rates, facts: Facts) -> StageCost:
    used, time = memory(load.work, layout, cluster.gpus), step_time(load.work, layout, cluster, rates)
    cost = StageCost(load, layout, cluster, used, time)
    fact = facts.of(load.work, layout, cluster.gpus)
    if fact is None:
        return cost
    point, stage = fact
    assert stage.seconds is not None
    assert stage.memory is not None
    whole = stage.work == load.work
    longer = 1.0 if whole else time.total / step_time(stage.work, layout, cluster, rates).total
    larger = 1.0 if whole else used.peak / memory(stage.work, layout, cluster.gpus).peak
    ran = stage.sums(cluster.gpus) >= layout.accumulates_wide(load.work.sequences, cluster.gpus)
    return replace(cost, measured=Measured(longer * stage.seconds, larger * stage.memory, whole, ran, point.overrides))


def _fitted(load: StageLoad, layout: Layout, cluster: Cluster) -> Layout:
    """With the micro-batch that a rank's share of the step allows, as training has it."""
    groups = layout.data_size(cluster.gpus)
    if load.work.sequences % groups:
        raise UserError(
            f"{load.name}: found global_batch_size={load.work.sequences} on {groups} groups of ranks; expected a "
            f"multiple of {groups}"
        )
    return replace(layout, micro_batch_size=divisor(load.work.sequences // groups, layout.micro_batch_size))


def divisor(count: int, most: int) -> int:
    """The largest divisor up to ``most``."""
    return next(rows for rows in range(min(count, most), 0, -1) if count % rows == 0)
