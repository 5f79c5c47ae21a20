"""What a run measures while it trains: a stage calls it from time to time, on all ranks."""

from typing import Any

import torch

from prealign.config import Recipe
from prealign.config.stage import Stage
from prealign.data.prepared import PreparedData
from prealign.distributed.world import World
from prealign.evaluation.facts import FactsTest
from prealign.evaluation.language_model import evaluate_language
from prealign.evaluation.measuring import Subject, alignment
from prealign.evaluation.similarity import Probe, aligned_cosine


class WhileTraining:
    """Perplexity of every language and cosine of aligned words; alignment in full at the align stage's end; facts
    where a period of them ends."""

    def __init__(self, recipe: Recipe, data: PreparedData, world: World) -> None:
        self._recipe = recipe
        self._data = data
        self._world = world
        lexicon, words = data.whole_lexicon, recipe.evaluation.probe_words
        self._probe = Probe.build(lexicon, words, world.device) if lexicon is not None else None
        self._facts = FactsTest.of(data)

    def __call__(self, model: torch.nn.Module, stage: Stage, step: int, finished: bool) -> dict[str, Any]:
        """Numbers by name, the same on every rank. ``step``: steps of the stage so far; ``finished``: all of them."""
        recipe, data, world = self._recipe, self._data, self._world
        results: dict[str, Any] = {}
        for language in recipe.languages:
            measured = evaluate_language(model, recipe, data, world, language)
            if measured is not None:
                results[f"perplexity/{language}"] = measured.perplexity
                results[f"bits_per_byte/{language}"] = measured.bits_per_byte
        if self._probe is not None:
            results["probe_cosine_layers"], results["probe_random_cosine_layers"] = aligned_cosine(model, self._probe)
        if stage.measures_alignment and finished:
            results["alignment"] = alignment(Subject(recipe, data, world, model, recipe.folder, stage.name, step))
        if self._facts is not None and stage.facts is not None and stage.facts.ends_at(step):
            results |= self._facts.accuracies(model, world, stage.facts.ended(step) or 0)
        return results
