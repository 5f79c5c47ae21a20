"""Perplexity of words inside and outside the alignment table (the paper's Figure 5)."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from prealign.data.prepared import PreparedData
from prealign.evaluation.results import NotMeasured
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.stores.spans import span_keys, words_of_chunk
from prealign.stores.word_map import WordMap


@dataclass(frozen=True)
class WordsResult:
    """Words of one kind in held-out text. ``nats``: summed over their ``tokens``."""

    nats: float
    tokens: int
    words: int

    @property
    def perplexity(self) -> float | None:
        """exp(nats per token); None where there are no such words."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self) | {"perplexity": self.perplexity}


def seen_and_unseen(data: PreparedData, language: str, nats: np.ndarray) -> dict[str, WordsResult]:
    """Losses of the words of held-out text, split by whether their type takes part in the alignment.

    ``nats[i]``: loss of token ``i + 1`` of the language's held-out store. A word is *seen* when one of its written
    forms is that of a word which the table, as the recipe trains on it, pairs with another language; its loss is that
    of all its tokens. Words whose tokens have not all been predicted are left out. Raises `NotMeasured`.
    """
    lexicon = data.lexicon
    if lexicon is None:
        raise NotMeasured("there is no alignment table")
    if not data.recipe.languages[language].space_prefix:
        raise NotMeasured(f"'{language}' is written without spaces, so its words are not known")
    store = data.heldout(language)
    words = WordMap(data.artefacts[language].folder / f"{data.split}.words")
    tokens, starts, ends, _ = words_of_chunk(store, words, 0, min(len(nats) + 1, len(store)))
    whole = (starts >= 1) & (ends <= len(nats) + 1)
    starts, ends = starts[whole], ends[whole]
    seen = np.isin(span_keys(tokens, starts, ends), _aligned_keys(lexicon, language))
    upto = np.concatenate(([0.0], np.cumsum(nats)))  # token t has loss nats[t - 1]
    losses = upto[ends - 1] - upto[starts - 1]
    return {
        name: WordsResult(float(losses[kind].sum()), int((ends - starts)[kind].sum()), int(kind.sum()))
        for name, kind in (("seen", seen), ("unseen", ~seen))
    }


def _aligned_keys(lexicon: CompiledLexicon, language: str) -> np.ndarray:
    """`span_keys` of all written forms of the language's words that have a partner in the table."""
    ranges = lexicon.translation_offsets
    if language == lexicon.languages[0]:
        surfaces = np.flatnonzero((ranges[:, :, 1] > ranges[:, :, 0]).any(axis=1))
    else:
        column = ranges[:, lexicon.languages.index(language) - 1]
        used = np.zeros(len(lexicon.translations) + 1, np.int64)
        np.add.at(used, column[:, 0], 1)
        np.add.at(used, column[:, 1], -1)
        surfaces = np.unique(lexicon.translations[np.cumsum(used)[:-1] > 0]).astype(np.int64)
    forms = (surfaces[:, None] * FORMS + np.arange(FORMS)).reshape(-1)
    begin, end = lexicon.form_offsets[forms], lexicon.form_offsets[forms + 1]
    return np.unique(span_keys(lexicon.form_tokens, begin, end))
