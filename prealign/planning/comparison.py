"""Steps that were measured beside the plan for the same layout."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prealign.errors import UserError
from prealign.planning.cluster import Cluster
from prealign.planning.cost import StageCost, StageLoad, run_cost
from prealign.planning.facts import MeasuredStage, Point
from prealign.planning.rates import Rates
from prealign.planning.tables import Table

TIME_GOAL, MEMORY_GOAL = 0.15, 0.10
"""Shares by which a plan's step time and peak memory on a card may be off: goals."""


@dataclass(frozen=True)
class Compared:
    """A stage of a point, and its plan from nothing of that point."""

    point: Point
    measured: MeasuredStage
    planned: StageCost

    @property
    def time_off(self) -> float | None:
        """By which share of the measured seconds the plan is above them; None where it was out of memory."""
        return _off(self.planned.time.total, self.measured.seconds)

    @property
    def memory_off(self) -> float | None:
        """The same of the peak."""
        return _off(self.planned.memory.peak, self.measured.memory)


def compared(points: Sequence[Point], cluster_of: Callable[[int], Cluster], rates: Rates) -> Iterator[Compared]:
    """All stages of all points; ``cluster_of``: the cluster of so many ranks. Raises `UserError`."""
    for point in points:
        loads = [StageLoad(stage.name, stage.work, 1) for stage in point.stages]
        try:
            cost = run_cost(loads, [stage.layout for stage in point.stages], cluster_of(point.gpus), rates)
        except UserError as error:
            raise UserError(f"--measured: {' '.join(point.overrides)} on {point.gpus} ranks: {error}") from None
        for stage, planned in zip(point.stages, cost.stages):
            yield Compared(point, stage, planned)


def comparison_table(found: Sequence[Compared]) -> Table:
    """A row a stage; shares are by which the plan is above what was measured."""
    headings = ["measured", "GPUs", "stage", "s a step", "planned", "off", "MFU", "planned", "GB", "planned", "off"]
    table: Table = [headings]
    for row in found:
        seconds, used, mfu = row.measured.seconds, row.measured.memory, row.measured.mfu
        cells = [" ".join(map(_short, row.point.overrides)), str(row.point.gpus), row.measured.name]
        cells += ["out of memory" if seconds is None else f"{seconds:.3f}", f"{row.planned.time.total:.3f}"]
        cells += [_percent(row.time_off), "" if mfu is None else f"{100 * mfu:.1f} %", f"{100 * row.planned.mfu:.1f} %"]
        cells += ["" if used is None else f"{used / 1e9:.1f}", f"{row.planned.memory.peak / 1e9:.1f}"]
        table.append([*cells, _percent(row.memory_off)])
    return table


def comparison_words(found: Sequence[Compared]) -> str:
    """How many stages are as near as the goals, and of points that were out of memory how many plans do not fit."""
    times, peaks = ([row.time_off for row in found], [row.memory_off for row in found])
    lines = [
        f"{_near(times, TIME_GOAL)} steps within {100 * TIME_GOAL:.0f} % of time",
        f"{_near(peaks, MEMORY_GOAL)} peaks within {100 * MEMORY_GOAL:.0f} % of memory",
    ]
    failed: dict[int, bool] = {}
    for row in found:
        if not row.point.fitted:
            failed[id(row.point)] = failed.get(id(row.point), False) or not row.planned.fits
    if failed:
        lines.append(f"{sum(failed.values())} of {len(failed)} points that were out of memory planned not to fit")
    return ", ".join(lines)


def comparison_record(found: Sequence[Compared]) -> list[dict[str, object]]:
    """Rows as plain values: seconds, bytes, 0 to 1."""
    return [
        {
            "overrides": row.point.overrides,
            "gpus": row.point.gpus,
            "stage": row.measured.name,
            "seconds_per_step": {"measured": row.measured.seconds, "planned": row.planned.time.total},
            "mfu": {"measured": row.measured.mfu, "planned": row.planned.mfu},
            "peak_memory": {"measured": row.measured.memory, "planned": row.planned.memory.peak},
        }
        for row in found
    ]


def _short(change: str) -> str:
    """``section.key=value`` without its section."""
    key, _, value = change.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def _near(shares: Sequence[float | None], goal: float) -> str:
    measured = [share for share in shares if share is not None]
    return f"{sum(abs(share) <= goal for share in measured)} of {len(measured)}"


def _off(planned: float, measured: float | None) -> float | None:
    return None if measured is None else planned / measured - 1


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.0f} %"
