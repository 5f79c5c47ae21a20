"""What was measured of layouts on the planned cards, for plans to take the place of what they count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from prealign.planning.layout import Layout, Workload


@dataclass(frozen=True)
class MeasuredStage:
    """A stage of a point: its step ``work`` over all ranks, and its ``layout``. ``seconds`` of a step, peak ``memory``
    in bytes and ``mfu`` (0 to 1); None where the point was out of memory."""

    name: str
    work: Workload
    layout: Layout
    seconds: float | None = None
    memory: float | None = None
    mfu: float | None = None

    def is_of(self, work: Workload, layout: Layout) -> bool:
        """Whether it is such a step with such a layout, of however many micro-batches."""
        if not work.words:
            layout = replace(layout, recompute_words=self.layout.recompute_words)  # of no words
        return self.layout.resolved == layout.resolved and same_work(self.work, work)

    def bounds(self, work: Workload, layout: Layout, gpus: int) -> bool:
        """Whether such a step takes at least the memory of this one: no smaller a micro-batch, and no more blocks
        recomputed."""
        own = self.layout
        alike = replace(
            layout,
            micro_batch_size=own.micro_batch_size,
            recompute=own.recompute,
            recompute_words=own.recompute_words,
        )
        return (
            self.is_of(work, alike)
            and layout.micro_batch_size >= own.micro_batch_size
            and _share(layout.recompute) <= _share(own.recompute)
            and (not work.words or _share(layout.recompute_words) <= _share(own.recompute_words))
            and layout.accumulates_wide(work.sequences, gpus) >= self.sums(gpus)
        )

    def sums(self, gpus: int) -> bool:
        """Whether its micro-batches added up in fp32, which takes memory that a single one does not."""
        return self.layout.accumulates_wide(self.work.sequences, gpus)


@dataclass(frozen=True)
class Point:
    """A combination of a sweep, on ``gpus`` ranks. ``layouts``: of every stage by name, as its recipe has them."""

    overrides: tuple[str, ...]
    gpus: int
    stages: tuple[MeasuredStage, ...]
    layouts: Mapping[str, Layout]

    @property
    def fitted(self) -> bool:
        """Whether it was measured, and not out of memory."""
        return all(stage.seconds is not None for stage in self.stages)


@dataclass(frozen=True)
class Facts:
    """Points of the device that is planned for."""

    points: tuple[Point, ...] = ()

    @cached_property
    def _fitted(self) -> dict[tuple[int, ...], list[Point]]:
        """What was measured, by a part of the layout: a search asks of thousands."""
        found: dict[tuple[int, ...], list[Point]] = {}
        for point in self.points:
            layout = point.stages[0].layout
            if point.fitted:
                found.setdefault(_key(layout, point.gpus, layout.micro_batch_size), []).append(point)
        return found

    @cached_property
    def _failed(self) -> dict[tuple[int, ...], list[Point]]:
        """What was out of memory, of any micro-batch."""
        found: dict[tuple[int, ...], list[Point]] = {}
        for point in self.points:
            if not point.fitted:
                found.setdefault(_key(point.stages[0].layout, point.gpus), []).append(point)
        return found

    def of(self, work: Workload, layout: Layout, gpus: int) -> tuple[Point, MeasuredStage] | None:
        """What was measured of such a step with such a layout: the fastest, where settings that no plan knows of were
        measured too."""
        found = [
            (stage.seconds, point, stage)
            for point in self._fitted.get(_key(layout, gpus, layout.micro_batch_size), [])
            for stage in point.stages
            if stage.seconds is not None and stage.is_of(work, layout)
        ]
        return min(found, key=lambda fact: fact[0])[1:] if found else None

    def too_large(self, works: Sequence[Workload], layouts: Sequence[Layout], gpus: int) -> bool:
        """Whether a point that a run of such stages would repeat, with as large micro-batches, was out of memory."""
        pairs = list(zip(works, layouts))
        return any(
            all(any(stage.bounds(work, layout, gpus) for work, layout in pairs) for stage in point.stages)
            for point in self._failed.get(_key(layouts[0], gpus), [])
        )

    def layouts(
        self, names: Sequence[str], works: Sequence[Workload], layouts: Sequence[Layout], gpus: int
    ) -> Iterator[list[Layout]]:
        """Layouts that were measured of such a run, which it may take: numbers are as wide as in ``layouts``."""
        for point in self.points:
            if point.gpus != gpus or not any(
                same_work(stage.work, work) for stage in point.stages for name, work in zip(names, works)
            ):
                continue
            measured = [point.layouts[name] for name in names]
            if all(_as_wide(own, other) for own, other in zip(layouts, measured)):
                yield measured


def _key(layout: Layout, gpus: int, *more: int) -> tuple[int, ...]:
    return gpus, layout.zero_stage, layout.tensor_size, *more


def same_work(one: Workload, other: Workload) -> bool:
    """Whether steps differ in nothing but how many rows of text they take, and how often words."""
    return _without_counts(one) == _without_counts(other)


def _share(every: int | None) -> float:
    """Of blocks that are recomputed."""
    return 0.0 if every is None else 1.0 / every


def _without_counts(work: Workload) -> Workload:
    return replace(work, sequences=0, words_every=1)


def _as_wide(one: Layout, other: Layout) -> bool:
    """Whether weights, products, sums and exchanges have as many bits, which bears on what is learned."""

    def widths(layout: Layout) -> tuple[bool | None, ...]:
        return layout.bf16, layout.fp8, layout.wide_gradients, layout.wide_exchange

    return widths(one) == widths(other)
