"""The measurements that `launchers/evaluate.py` takes of one model, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from prealign.config import Recipe
from prealign.data.prepared import PreparedData
from prealign.distributed.world import World
from prealign.evaluation.facts import FactsTest, facts_now, facts_over_periods
from prealign.evaluation.language_model import heldout_losses, summarise
from prealign.evaluation.leakage import leakage
from prealign.evaluation.mexa import mexa_of_pairs, sentence_pairs
from prealign.evaluation.nli import transfer
from prealign.evaluation.results import NotMeasured
from prealign.evaluation.retrieval import retrieval
from prealign.evaluation.seen_words import seen_and_unseen
from prealign.evaluation.similarity import pair_cosines
from prealign.evaluation.word_pairs import draw_pairs, heldout_lexicon, word_vectors
from prealign.lexicon.compiled import CompiledLexicon
from prealign.objectives.joint import JointModel


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, whole on every rank, with its run, stage, step and data."""

    recipe: Recipe
    data: PreparedData
    world: World
    model: torch.nn.Module
    """Maps `ModelInputs` to `ModelOutputs`."""
    run: Path
    stage: str
    step: int


Result = dict[str, Any]
"""Plain values; ``{"skipped": reason}`` where a measurement does not apply."""


def measure(subject: Subject, names: list[str]) -> dict[str, Result]:
    """Take the named measurements (of `METRICS`); all ranks call it."""
    return {name: _or_reason(partial(METRICS[name], subject)) for name in names}


def language_model(subject: Subject) -> Result:
    """Perplexity and bits per byte per language, with the perplexity of seen and unseen words."""
    results: Result = {}
    for language in subject.recipe.languages:
        results[language] = _or_reason(partial(_language, subject, language))
    return results


def _language(subject: Subject, language: str) -> Result:
    losses = heldout_losses(subject.model, subject.recipe, subject.data, subject.world, language)
    if losses is None:
        raise NotMeasured("there is no held-out text")
    result = summarise(losses, subject.data, language)

    def words() -> Result:
        return {name: of.as_dict() for name, of in seen_and_unseen(subject.data, language, losses.nats).items()}

    return {
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "nats": result.nats,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "words": _or_reason(words),
        "tokens_per_second": result.tokens / losses.seconds,
        "forward_share": losses.forward_seconds / losses.seconds,
    }


def alignment(subject: Subject) -> Result:
    """Cosines of aligned words and retrieval, per layer, on words of the table and on held-out words."""
    table = subject.data.whole_lexicon
    if table is None:
        raise NotMeasured("there is no alignment table")

    def of_words(lexicon: CompiledLexicon, language: str) -> Result:
        settings, device = subject.recipe.evaluation, subject.world.device
        pairs = draw_pairs(lexicon, language, settings.retrieval_words)
        sources = word_vectors(subject.model, lexicon, pairs.sources, device)
        targets = word_vectors(subject.model, lexicon, pairs.targets, device)
        return pair_cosines(sources, targets, pairs) | {"retrieval": retrieval(sources, targets, pairs, device)}

    def of_heldout(language: str) -> Result:
        return of_words(heldout_lexicon(subject.data), language)

    return {
        language: {
            "table": _or_reason(partial(of_words, table, language)),
            "heldout": _or_reason(partial(of_heldout, language)),
        }
        for language in subject.recipe.targets
    }


def mexa(subject: Subject) -> Result:
    """MEXA per target language, and the mean over those that have parallel sentences."""
    rows = subject.recipe.batch.micro_batch_size

    def of(language: str) -> Result:
        return mexa_of_pairs(_joint(subject), sentence_pairs(subject.data, language), rows, subject.world.device)

    return {language: _or_reason(partial(of, language)) for language in subject.recipe.targets}


def facts(subject: Subject) -> Result:
    """Injected facts: what training measured at the ends of periods, and this model on the last period's."""
    test = FactsTest.of(subject.data)
    if test is None:
        raise NotMeasured("the recipe has no facts")
    if subject.stage != "pretrain":
        raise NotMeasured("facts are in the text of the pretrain stage only")
    return {
        "over_periods": _or_reason(lambda: facts_over_periods(test, subject.run / "metrics.jsonl", subject.step)),
        "now": facts_now(test, subject.model, subject.world, subject.step),
    }


def leaked(subject: Subject) -> Result:
    """Share of sampled continuations of source-language text that hold target languages."""
    if not subject.recipe.targets:
        raise NotMeasured("there is no target language")
    return leakage(_joint(subject), subject.data, subject.world)


def _joint(subject: Subject) -> JointModel:
    """The model itself, for what reaches into it."""
    return cast(JointModel, subject.model)


def _transfer(task: str) -> Callable[[Subject], Result]:
    """Accuracy in every language after fine-tuning in the source language."""
    return lambda subject: transfer(_joint(subject), subject.data, subject.world, task)


METRICS: dict[str, Callable[[Subject], Result]] = {
    "lm": language_model,
    "alignment": alignment,
    "mexa": mexa,
    "facts": facts,
    "leakage": leaked,
    "nli": _transfer("nli"),
    "pawsx": _transfer("pawsx"),
}


def _or_reason(take: Callable[[], Result]) -> Result:
    try:
        return take()
    except NotMeasured as reason:
        return {"skipped": str(reason)}
