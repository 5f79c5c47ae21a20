"""The runs of a ladder as numbers: what each read, and the held-out loss that it ended with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prealign.config import load_recipe
from prealign.model.shapes import parameter_count
from prealign.scaling.forms import Points
from prealign.scaling.ladder import Ladder, rungs_of
from prealign.suites.expansion import Measurement, Plan
from prealign.suites.results import Result, read_result


@dataclass(frozen=True)
class LadderRun:
    """One run of a ladder, measured or still to come."""

    name: str
    label: str
    size: str
    method: str
    seed: int
    parameters: int
    """All of them, embeddings and LM head included."""
    budgets: dict[str, int]
    """Text by language, as the ladder has it."""
    tokens: dict[str, int]
    """As read, which whole steps make a little less; the budgets where there is no result yet."""
    available: dict[str, int]
    """Different tokens of text by language that there are to read; empty where it is not known."""
    losses: dict[str, float]
    """Nats a token of held-out text by language; empty where there is no result yet."""
    result: Result | None

    @property
    def cosine(self) -> float | None:
        """Mean cosine of aligned words over layers when pretraining begins; None without an align stage."""
        if self.result is None or not self.result["account"]["align_steps"]:
            return None
        steps = self.result["account"]["align_steps"]
        found = [point["cosine"] for point in self.result["curves"] if point["step"] == steps and "cosine" in point]
        return found[0] if found else None


@dataclass(frozen=True)
class Measured:
    """A ladder with what is measured of it."""

    ladder: Ladder
    source: str
    targets: list[str]
    runs: list[LadderRun]
    """In the ladder's order, by seed."""

    @property
    def finished(self) -> list[LadderRun]:
        """The runs that have results."""
        return [run for run in self.runs if run.result is not None]

    @property
    def held_out(self) -> str:
        """The largest size, which laws are tested on."""
        return list(self.ladder.sizes)[-1]

    @property
    def methods(self) -> list[str]:
        return list(self.ladder.methods)

    def points(self, runs: Sequence[LadderRun], language: str) -> Points:
        """Runs as points of a language's laws. They read some of the language."""
        others = [name for name in self.targets if name != language]
        of_source = language == self.source

        def array(values: list[float]) -> np.ndarray:
            return np.array(values, float)

        tokens = array([run.tokens[language] for run in runs])
        available = array([run.available.get(language, math.inf) for run in runs])
        return Points(
            array([run.parameters for run in runs]),
            tokens,
            np.minimum(tokens, available),
            array([0 if of_source else run.tokens[self.source] for run in runs]),
            array([0 if of_source else sum(run.tokens[name] for name in others) for run in runs]),
            np.array([self.methods.index(run.method) for run in runs], np.int64),
            array([run.losses.get(language, math.nan) for run in runs]),
        )


def measured(plan: Plan, ladder: Ladder) -> Measured:
    """Read the results of a ladder's plan. Raises `UserError` for a damaged one."""
    recipe = load_recipe(ladder.recipe, plan.overrides)
    rungs = {rung.label: rung for rung in rungs_of(ladder)}
    by_name: dict[str, Measurement] = {measurement.name: measurement for measurement in plan.measurements}
    results = {name: read_result(plan.folder, measurement) for name, measurement in by_name.items()}
    known = [result["account"].get("available") for result in results.values() if result is not None]
    available: dict[str, int] = next((found for found in known if found), {})
    runs = []
    for (_, label, seed), name in plan.cells.items():
        rung, result = rungs[label], results[name]
        losses: dict[str, float] = {}
        if result is not None:
            for language, values in result["metrics"]["lm"].items():
                if isinstance(values, dict) and "perplexity" in values:
                    losses[language] = math.log(values["perplexity"])
        runs.append(
            LadderRun(
                name,
                label,
                rung.size,
                rung.method,
                seed,
                parameter_count(by_name[name].training.recipe),
                rung.tokens,
                dict(result["account"]["text"]) if result is not None else dict(rung.tokens),
                available,
                losses,
                result,
            )
        )
    return Measured(ladder, recipe.source_language, recipe.targets, runs)
