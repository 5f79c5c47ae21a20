"""A plan as rows of text."""

from collections.abc import Sequence

from prealign.planning.cost import RunCost, StageCost
from prealign.planning.memory import USABLE
from prealign.planning.planner import layout_words, recompute_words
from prealign.planning.timing import PARTS

Table = list[list[str]]
"""Rows of cells; the first is the header."""


def memory_table(run: RunCost) -> Table:
    """Bytes on a card by part, a column a stage."""
    names = list(dict.fromkeys(name for stage in run.stages for name in stage.memory.parts))
    table = [["GB on a card", *(stage.load.name for stage in run.stages)]]
    table += [[name, *(_gigabytes(stage.memory.parts.get(name)) for stage in run.stages)] for name in names]
    table.append(["peak", *(_gigabytes(stage.memory.peak) for stage in run.stages)])
    table.append(["  in", *(stage.memory.when for stage in run.stages)])
    if any(stage.measured for stage in run.stages):
        peaks = [None if stage.measured is None else stage.measured.memory for stage in run.stages]
        table.append(["peak, measured", *map(_gigabytes, peaks)])
    if any(stage.memory.host for stage in run.stages):
        table.append(["in host memory", *(_gigabytes(stage.memory.host) for stage in run.stages)])
    return table


def time_table(run: RunCost) -> Table:
    """Milliseconds of a step by part, a column a stage."""
    table = [["ms a step", *(stage.load.name for stage in run.stages)]]
    for part in PARTS:
        if any(stage.time.seconds[part] for stage in run.stages):
            name = "communication, exposed" if part == "communication" else part
            table.append([name, *(f"{1e3 * stage.time.seconds[part]:,.1f}" for stage in run.stages)])
    if any(stage.time.hidden for stage in run.stages):
        table.append(["(communication, hidden)", *(f"{1e3 * stage.time.hidden:,.1f}" for stage in run.stages)])
    planned = [f"{1e3 * stage.time.total:,.1f}" for stage in run.stages]
    rows = {
        "step": planned,
        "tokens/s": [f"{stage.tokens_per_second:,.0f}" for stage in run.stages],
        "MFU": [f"{100 * stage.mfu:.1f} %" for stage in run.stages],
        "steps": [f"{stage.load.steps:,}" for stage in run.stages],
        "days": [f"{stage.seconds / 86_400:.2f}" for stage in run.stages],
    }
    if any(stage.measured for stage in run.stages):
        taken = [
            f"{1e3 * stage.step_seconds:,.1f} {'measured' if stage.measured else 'planned'}" for stage in run.stages
        ]
        rows = {"step, planned": planned} | rows | {"step": taken}
    return table + [[name, *cells] for name, cells in rows.items()]


def totals(run: RunCost) -> str:
    """Days, energy and money in a line."""
    card = run.cluster.device
    line = (
        f"{_days(run.seconds)}, {run.gpu_hours:,.0f} GPU hours, {run.kilowatt_hours:,.0f} kWh (cards at "
        f"{card.watts:.0f} W, without hosts and cooling)"
    )
    return line if run.money is None else f"{line}, {run.money:,.0f} at {run.price:g} a GPU hour"


def fit_words(run: RunCost) -> str:
    """Whether it fits, in a line."""
    usable = USABLE * run.cluster.device.memory / 1e9
    if run.too_large:
        return "does not fit: it, or one that takes no more memory, was out of memory when measured"
    peak = run.peak.peak_bytes / 1e9
    verdict = "fits" if run.fits else "does not fit"
    return (
        f"{verdict}: {peak:.1f} GB of {usable:.1f} ({100 * USABLE:.0f} % of the card's "
        f"{run.cluster.device.memory / 1e9:.0f}), most in {run.peak.memory.when} of the {run.peak.load.name} stage"
    )


def sweep_table(rows: Sequence[tuple[str, int, RunCost | None, str]]) -> Table:
    """Sizes by GPUs: ``(model, GPUs, plan, why there is none)``."""
    table = [["model", "GPUs", "ZeRO", "tensor", "rows", "recompute", "GB", "MFU", "tokens/s", "days", "MWh", ""]]
    for name, gpus, run, reason in rows:
        if run is None:
            table.append([name, str(gpus), *["-"] * 3, reason, *["-"] * 5, ""])
            continue
        stage = run.stages[-1]
        layout = stage.layout
        cells = [str(size) for size in (layout.zero_stage, layout.tensor_size, layout.micro_batch_size)]
        cells += [recompute_words(layout), f"{run.peak.peak_bytes / 1e9:.0f}", f"{100 * stage.mfu:.0f} %"]
        cells += [f"{stage.tokens_per_second:,.0f}", f"{run.seconds / 86_400:.2f}", f"{run.kilowatt_hours / 1e3:.2f}"]
        cells.append("measured" if stage.measured else "")
        table.append([name, str(gpus), *cells])
    return table


def record(run: RunCost) -> dict[str, object]:
    """The plan as plain values: bytes and seconds."""
    return {
        "device": run.cluster.device.name,
        "gpus": run.cluster.gpus,
        "fits": run.fits,
        "seconds": run.seconds,
        "gpu_hours": run.gpu_hours,
        "kilowatt_hours": run.kilowatt_hours,
        "money": run.money,
        "stages": {stage.load.name: _stage_record(stage) for stage in run.stages},
    }


def _stage_record(stage: StageCost) -> dict[str, object]:
    return {
        "layout": layout_words(stage.layout),
        "memory": stage.memory.parts | {"peak": stage.memory.peak, "when": stage.memory.when},
        "seconds_per_step": stage.time.seconds | {"total": stage.time.total, "communication_hidden": stage.time.hidden},
        "measured": None
        if stage.measured is None
        else {
            "seconds_per_step": stage.measured.seconds,
            "memory": stage.measured.memory,
            "overrides": stage.measured.overrides,
            "scaled": not stage.measured.whole,
        },
        "steps": stage.load.steps,
        "tokens_per_second": stage.tokens_per_second,
        "mfu": stage.mfu,
    }


def _gigabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.2f} days" if seconds >= 86_400 else f"{seconds / 3600:.2f} hours"
