"""Word batches and their relations against a literal reading of the rules."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from prealign.config.training import AlignConfig
from prealign.data.word_batches import WordBatches
from prealign.kernels.relations import edges
from prealign.lexicon.compiled import FORMS, CompiledLexicon

# "hotel" is written alike in English and German; "die" is a translation of "the" and an English word of its own;
# "bank" and "bench" share a translation; "light" has two translations in one language.
TABLE: dict[str, dict[str, list[str]]] = {
    "hotel": {"de": ["hotel"], "ru": ["отель"]},
    "the": {"de": ["die", "der"]},
    "die": {"de": ["sterben"]},
    "bank": {"de": ["bank", "ufer"], "ru": ["банк"]},
    "bench": {"de": ["bank"]},
    "light": {"de": ["licht", "leicht", "hell"], "ru": ["свет"]},
    "none": {},
}
LANGUAGES = ["en", "de", "ru"]


def lexicon() -> CompiledLexicon:
    surfaces: list[tuple[str, str]] = [("en", word) for word in TABLE]
    offsets, flat = [0], []
    for translations in TABLE.values():
        for language in LANGUAGES[1:]:
            for word in translations.get(language, []):
                if (language, word) not in surfaces:
                    surfaces.append((language, word))
                flat.append(surfaces.index((language, word)))
            offsets.append(len(flat))
    forms = [list(word.encode()) for _, word in surfaces for _ in range(FORMS)]
    arrays = {
        "form_offsets": np.cumsum([0, *map(len, forms)]),
        "form_tokens": np.array([token for form in forms for token in form], dtype=np.int32),
        "surface_language": np.array([LANGUAGES.index(language) for language, _ in surfaces], dtype=np.uint8),
        "usual_form": np.zeros(len(surfaces), dtype=np.uint8),
        "counts": np.array([100, 90, 50, 20, 10, 5, 1]),
        "translation_offsets": np.array(offsets),
        "translations": np.array(flat, dtype=np.int32),
    }
    return CompiledLexicon(LANGUAGES, arrays)


def batches(seed: int = 0, **options: Any) -> WordBatches:
    return WordBatches(lexicon(), AlignConfig(**{"words_per_step": 8} | options), seed)


def spelled(batch: Any) -> list[str]:
    ends = np.cumsum(batch.lengths.numpy())
    return [bytes(batch.tokens[e - n : e].tolist()).decode() for e, n in zip(ends, batch.lengths.tolist())]


def pairs_of(relation: Any) -> set[tuple[int, int]]:
    return set(zip(*(part.tolist() for part in edges(relation))))


@pytest.mark.parametrize("siblings", ["ignore", "positive", "negative"])
@pytest.mark.parametrize("anchors", ["all", "source"])
@pytest.mark.parametrize("words_per_step", [2, 4, 8, 100])
def test_relations_are_those_of_the_table(siblings: str, anchors: str, words_per_step: int) -> None:
    for step in range(20):
        batch = batches(words_per_step=words_per_step, siblings=siblings, anchors=anchors).batch(step)
        words = spelled(batch)
        assert len(set(words)) == len(words)  # a spelling is one row
        positive, related, sources = set(), set(), set()
        for source, translations in TABLE.items():
            if source not in words:
                continue
            present = [word for group in translations.values() for word in group if word in words]
            for word in present:
                if word != source:
                    positive |= {(words.index(source), words.index(word)), (words.index(word), words.index(source))}
                    sources.add(words.index(source))
            others = [words.index(word) for word in dict.fromkeys(present) if word != source]
            related |= set(itertools.permutations(others, 2))
        related -= positive
        if siblings == "positive":
            positive |= related
        assert pairs_of(batch.relations.positives) == positive
        assert pairs_of(batch.relations.ignored) == (related if siblings == "ignore" else set())
        weighted = {row for row, weight in enumerate(batch.relations.anchor_weight.tolist()) if weight > 0}
        assert weighted == (sources if anchors == "source" else {row for row, _ in positive})
        if weighted:
            assert batch.relations.anchor_weight.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("anchors", ["all", "source"])
def test_a_share_of_the_anchors(anchors: str) -> None:
    """Two of the anchors that the whole batch has, others at other steps, of equal weight; the relations stay."""
    chosen = set()
    for step in range(20):
        whole = batches(words_per_step=100, anchors=anchors).batch(step)
        part = batches(words_per_step=100, anchors=anchors, anchor_fraction=0.15).batch(step)
        everyone = set(whole.relations.anchor_weight.nonzero().flatten().tolist())
        some = set(part.relations.anchor_weight.nonzero().flatten().tolist())
        assert some < everyone
        assert len(some) == math.ceil(0.15 * len(everyone))
        assert part.relations.anchor_weight.sum().item() == pytest.approx(1.0)
        assert spelled(part) == spelled(whole)
        assert pairs_of(part.relations.positives) == pairs_of(whole.relations.positives)
        chosen |= {spelled(part)[row] for row in some}
    assert len(chosen) > len(some)


def test_groups_are_whole_and_the_batch_is_full() -> None:
    for step in range(50):
        words = spelled(batches(words_per_step=6).batch(step))
        assert len(words) <= 6
        for source in TABLE:
            # a source word that was drawn brings all its translations (those drawn as a translation need not)
            if source in words and source not in ("hotel", "die", "bank"):
                assert all(word in words for group in TABLE[source].values() for word in group)


def test_translations_are_capped() -> None:
    drawn = [spelled(batches(words_per_step=100, max_translations=1).batch(step)) for step in range(5)]
    assert all("leicht" not in words and "licht" in words for words in drawn)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, other = batches(), batches()
    for step in (5, 1, 5):
        assert spelled(one.batch(step)) == spelled(other.batch(step))
    assert any(spelled(one.batch(step)) != spelled(batches(seed=1).batch(step)) for step in range(5))
    assert any(spelled(one.batch(step)) != spelled(one.batch(step + 1)) for step in range(5))


@pytest.mark.parametrize("sampling", ["uniform", "frequency"])
def test_sampling(sampling: str) -> None:
    """Uniform draws every source word alike; by frequency, common words come first far more often."""
    first = [spelled(batches(sampling=sampling, words_per_step=4).batch(step))[0] for step in range(2000)]
    share = {word: first.count(word) / 2000 for word in ("the", "light")}
    if sampling == "uniform":
        assert share["the"] == pytest.approx(1 / 6, abs=0.03)
        assert share["light"] == pytest.approx(1 / 6, abs=0.03)
    else:
        assert share["light"] < 0.05 < 0.25 < share["the"]


def test_everything_is_drawn_where_there_is_room() -> None:
    assert batches(words_per_step=100).draws_per_step()[1].tolist() == [1.0] * 6


def test_sampling_between_uniform_and_frequency() -> None:
    first = [spelled(batches(sampling=0.5, words_per_step=4).batch(step))[0] for step in range(2000)]
    the, light = first.count("the") / 2000, first.count("light") / 2000
    assert the > 1 / 6
    assert light < 1 / 6
    assert the / light < spelled_ratio(1.0)


def spelled_ratio(power: float) -> float:
    """Count of the most frequent word over that of the rarest, to a power."""
    counts = batches().lexicon.counts
    return float((counts[0] / counts[-1]) ** power)


def test_token_account() -> None:
    batch = batches(words_per_step=100).batch(0)
    counts = batch.tokens_per_language()
    assert sum(counts.values()) == len(batch.tokens)
    assert counts["ru"] == sum(len(word.encode()) for word in ("отель", "банк", "свет"))
    # what German writes as English does is counted once, for English
    assert counts["de"] == sum(len(word) for word in ("der", "sterben", "ufer", "licht", "leicht", "hell"))
