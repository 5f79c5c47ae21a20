"""Ladders whose results are made from a known law."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prealign.scaling.ladder import Ladder, load_ladder
from prealign.scaling.measured import Measured, measured
from prealign.scaling.plan import plan_of
from prealign.suites.expansion import Plan
from prealign.suites.results import FORMAT_VERSION

AVAILABLE = {"en": 878_213, "clone": 210_075}


@dataclass(frozen=True)
class Truth:
    """A law with every term; ``tau`` by method."""

    floor: float = 2.5
    size: float = 107.0
    alpha: float = 0.35
    data: float = 136.0
    beta: float = 0.4
    limit: float = math.inf
    """``R*``: infinite where repeated text is worth as much as new."""
    tau: tuple[float, float] = (0.01, 0.05)

    def loss(self, parameters: float, tokens: float, source: float, method: str, unique: float) -> float:
        """Nats a token."""
        repeats = tokens / unique - 1
        again = repeats if math.isinf(self.limit) else self.limit * (1 - math.exp(-repeats / self.limit))
        own = unique * (1 + again) + self.tau[method != "Joint Training"] * source
        return self.floor + self.size / parameters**self.alpha + self.data / own**self.beta


def demo_plan(folder: Path, changes: dict | None = None) -> tuple[Ladder, Plan]:
    """The demo's ladder, or one with other keys."""
    ladder = load_ladder("demo").model_copy(update=changes or {})
    return ladder, plan_of(ladder, "demo", folder)


def fill(
    ladder: Ladder, plan: Plan, truth: Truth, noise: float = 0.0, seed: int = 0, sizes: list[str] | None = None
) -> Measured:
    """Write the results of a ladder's sizes, all by default, with noise of the log loss; returns them as read."""
    rng = np.random.default_rng(seed)
    plan.folder.mkdir(parents=True, exist_ok=True)
    before = measured(plan, ladder)
    by_name = {measurement.name: measurement for measurement in plan.measurements}
    for run in before.runs:
        shift = math.exp(noise * rng.standard_normal())
        if sizes is not None and run.size not in sizes:
            continue
        losses = {}
        for language in run.budgets:
            tokens, source = run.budgets[language], 0 if language == "en" else run.budgets["en"]
            unique = min(tokens, AVAILABLE[language])
            losses[language] = shift * truth.loss(run.parameters, tokens, source, run.method, unique)
        steps = 64 if run.method == "PreAlign" else 0
        measurement = by_name[run.name]
        result = {
            "format": FORMAT_VERSION,
            "run": run.name,
            "seed": run.seed,
            "settings": measurement.settings,
            "model": measurement.training.recipe.model.model_dump(mode="json"),
            "vocab_size": measurement.training.recipe.vocab_size,
            "account": {"text": run.budgets, "available": AVAILABLE, "align_steps": steps, "flops": 2e12},
            "speed": 5000.0,
            "curves": [{"tokens": 1000, "step": steps, "cosine": 0.9}],
            "metrics": {"lm": {language: {"perplexity": math.exp(loss)} for language, loss in losses.items()}},
            "commands": [f"launchers/pretrain.py name={run.name}"],
        }
        (plan.folder / f"{run.name}.json").write_text(json.dumps(result))
    return measured(plan, ladder)
