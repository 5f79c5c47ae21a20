"""A ladder's runs as a plan of the suites, and a plan of some of its sizes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prealign.errors import UserError
from prealign.scaling.ladder import Ladder, rungs_of, suite_of
from prealign.suites.expansion import Plan, expand
from prealign.suites.suite import Scale, load_variants


def plan_of(ladder: Ladder, scale: Scale, results: Path, overrides: Sequence[str] = ()) -> Plan:
    """All runs of a ladder; ``overrides`` change its base recipe. Raises `UserError`."""
    for word in overrides:
        if "=" not in word:
            raise UserError(f"found '{word}'; expected changes of the base recipe, key.sub=value")
    return expand([suite_of(ladder, scale)], load_variants(), scale, results, overrides)


def of_sizes(plan: Plan, ladder: Ladder, sizes: Sequence[str]) -> Plan:
    """The part of a ladder's plan that has these sizes. Raises `UserError` for a size that the ladder does not have."""
    for size in sizes:
        if size not in ladder.sizes:
            raise UserError(f"--sizes: found '{size}'; expected some of {list(ladder.sizes)}")
    labels = {rung.label for rung in rungs_of(ladder) if rung.size in sizes}
    cells = {key: name for key, name in plan.cells.items() if key[1] in labels}
    kept = set(cells.values())
    measurements = [measurement for measurement in plan.measurements if measurement.name in kept]
    return replace(plan, measurements=measurements, cells=cells)
