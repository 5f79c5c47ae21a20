"""Cross-lingual knowledge application, CLKA: which of four objects does a model find the most likely?"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prealign.data.loader import MicroBatch
from prealign.data.prepared import FACTS, PreparedData
from prealign.data.switching import IGNORED
from prealign.distributed.world import World
from prealign.evaluation.results import NotMeasured, wilson_interval
from prealign.facts.drawing import Fact, read_facts
from prealign.facts.statements import Statements
from prealign.files import json_rows
from prealign.objectives.inputs import ModelInputs, text_inputs


@dataclass(frozen=True)
class FactsTest:
    """The facts of a run and how they are written, opened once for many measurements."""

    data: PreparedData
    statements: Statements
    facts: list[Fact]

    @classmethod
    def of(cls, data: PreparedData) -> "FactsTest | None":
        """None where the recipe has no facts."""
        if data.recipe.facts is None:
            return None
        facts = list(read_facts(data.artefacts[FACTS].folder / "facts.jsonl"))
        return cls(data, Statements.of(data.recipe, data.clone_tokenizer), facts)

    def accuracies(self, model: torch.nn.Module, world: World, period: int) -> dict[str, float]:
        """Accuracy on the facts of a period, ``facts/LEARNED/TESTED/fN``: learned in one language, tested in another,
        by frequency N. ``model`` maps `ModelInputs` to `ModelOutputs`; all ranks call this."""
        facts = [fact for fact in self.facts if fact.period == period]
        found = {}
        for tested in self.data.recipe.languages:
            hits = choose(self.scores(model, world, facts, tested))
            for learned in self.data.recipe.facts_languages:
                for frequency in dict.fromkeys(fact.frequency for fact in facts):
                    of = [
                        hit for fact, hit in zip(facts, hits) if (fact.language, fact.frequency) == (learned, frequency)
                    ]
                    found[f"facts/{learned}/{tested}/f{frequency}"] = statistics.mean(of)
        return found

    def scores(self, model: torch.nn.Module, world: World, facts: list[Fact], language: str) -> np.ndarray:
        """Log-likelihood in nats of every fact's statement with each of its `choices`, float64 ``[facts, choices]``.

        The four statements differ in the object alone, whose names have equally many tokens: dividing by the length
        would not change which one is the most likely.
        """
        written = [self.statements.ids(fact, language, fact.template, name) for fact in facts for name in fact.choices]
        end = self.statements.end_of_document(language)
        recipe = self.data.recipe
        tokens = recipe.batch.micro_batch_size * recipe.model.context
        nats = statement_nats(model, world, written, end, tokens, recipe.document_ends)
        return -nats.reshape(len(facts), -1)


def choose(scores: np.ndarray) -> list[float]:
    """Of each row whether its first score is the highest, as 0 or 1; scores that are equally high share the hit."""
    best = scores == scores.max(axis=1, keepdims=True)
    return (best[:, 0] / best.sum(axis=1)).tolist()


def statement_nats(
    model: torch.nn.Module,
    world: World,
    statements: list[np.ndarray],
    end_of_document: int,
    tokens_per_pass: int,
    document_ends: list[int] | None,
) -> np.ndarray:
    """Negative log-likelihood of each statement after an end-of-document token, float64 ``[n]``.

    Statements of like length run together, padded on the right, about ``tokens_per_pass`` positions at a time; ranks
    share them and all get all values.
    """
    nats = torch.zeros(len(statements), dtype=torch.float64, device=world.device)
    order = np.argsort([len(statement) for statement in statements], kind="stable")
    rows = max(1, tokens_per_pass // max(len(statement) for statement in statements))
    for first in range(0, len(statements), rows * world.replicas):
        mine = order[first + world.replica_rank * rows : first + (world.replica_rank + 1) * rows]
        # a rank without a share repeats the last statement, so that all ranks make as many passes
        part = [statements[number] for number in (mine if len(mine) else order[-1:])]
        inputs = torch.zeros((len(part), max(map(len, part))), dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for row, statement in enumerate(part):
            ids = torch.from_numpy(statement.astype(np.int64))
            inputs[row, 0], inputs[row, 1 : len(ids)] = end_of_document, ids[:-1]
            targets[row, : len(ids)] = ids
        sources, words = torch.zeros(len(part), dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
        batch = MicroBatch(inputs, targets, sources, words)
        with torch.no_grad():
            losses = model(ModelInputs(text_inputs(batch, world.device, document_ends), None))["token_losses"]
        if len(mine):
            nats[torch.from_numpy(mine).to(nats.device)] = losses.view(inputs.shape).double().sum(dim=1)
    return world.sum(nats).cpu().numpy()


def facts_over_periods(test: FactsTest, metrics: Path, steps: int) -> dict[str, Any]:
    """What training measured at the ends of periods, up to a step: per panel (learned, tested) and frequency the
    accuracy of every period, its mean, and the mean's 95 % Wilson interval over the facts of all periods.

    The interval is of facts drawn for this one run, at these points of it. Periods of a run are not runs: what other
    seeds give, it does not say, and other seeds of the recipe have the same facts (`prealign.suites.cells`).

    ``pooled``: all frequencies together. ``metrics``: the run's `metrics.jsonl`.
    """
    settings = test.data.recipe.injected_facts
    by_period: dict[int, dict[str, float]] = {}
    for row in json_rows(metrics.read_text(encoding="utf-8", errors="replace") if metrics.is_file() else ""):
        if (
            row["kind"] == "eval"
            and row["stage"] == "pretrain"
            and row["step"] <= steps
            and settings.ends_at(row["step"])
        ):
            found = {key: value for key, value in row.items() if key.startswith("facts/")}
            period = settings.ended(row["step"])
            if found and period is not None:
                by_period[period] = found
    if not by_period:
        raise NotMeasured(f"no period of facts has ended by step {steps}")
    panels: dict[str, Any] = {}
    for learned in test.data.recipe.facts_languages:
        for tested in test.data.recipe.languages:
            keys = {f"f{n}": f"facts/{learned}/{tested}/f{n}" for n in settings.frequencies}
            values = {name: [found[key] for found in by_period.values()] for name, key in keys.items()}
            values["pooled"] = [statistics.mean(column) for column in zip(*values.values())]
            panels[f"{learned} -> {tested}"] = {
                name: _summary(column, settings.per_frequency * (len(keys) if name == "pooled" else 1))
                for name, column in values.items()
            }
    return {"periods": sorted(by_period), "chance": 0.25, "panels": panels}


def facts_now(test: FactsTest, model: torch.nn.Module, world: World, steps: int) -> dict[str, Any]:
    """Accuracy of this model on the facts of the last period that has ended: by panel and frequency, with the 95 %
    Wilson interval over the facts. Raises `NotMeasured` before the first period's end."""
    settings = test.data.recipe.injected_facts
    period = settings.ended(steps)
    if period is None:
        raise NotMeasured(f"no period of facts has ended by step {steps}")
    panels: dict[str, Any] = {}
    for key, accuracy in test.accuracies(model, world, period).items():
        _, learned, tested, frequency = key.split("/")
        hits = round(accuracy * settings.per_frequency)
        panels.setdefault(f"{learned} -> {tested}", {})[frequency] = {
            "accuracy": accuracy,
            "interval": wilson_interval(hits, settings.per_frequency),
        }
    return {"period": period, "ended_at": settings.steps(period)[1], "chance": 0.25, "panels": panels}


def _summary(values: list[float], facts_per_period: int) -> dict[str, Any]:
    accuracy, facts = statistics.mean(values), facts_per_period * len(values)
    interval = wilson_interval(round(accuracy * facts), facts)
    return {"accuracy": accuracy, "interval": interval, "facts": facts, "by_period": values}
