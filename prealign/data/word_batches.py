"""Word batches of the align stage: which words, and which of them are translations of each other."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from prealign.config.training import AlignConfig
from prealign.kernels import Relations, csr
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.random_streams import mix, uniform
from prealign.ranges import ranges

_ANCHORS = 1
"""Keeps the draw of anchors apart from the draw of words."""


@dataclass(frozen=True)
class WordBatch:
    """The words of one optimizer step, over all ranks.

    ``tokens``: int64, the words' token ids one after another; ``lengths``: int64 ``[W]``; ``languages``: int64 ``[W]``,
    index into the lexicon's languages (a spelling that two languages share is one row, counted for the first of them).
    ``relations``: None where words are measured and not trained on.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    languages: torch.Tensor
    language_names: tuple[str, ...]
    relations: Relations | None

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens_per_language(self) -> dict[str, int]:
        """Tokens of the words, by language."""
        counts = torch.zeros(len(self.language_names), dtype=torch.int64).index_add_(0, self.languages, self.lengths)
        return dict(zip(self.language_names, counts.tolist()))


class WordBatches:
    """Draws word batches; a pure function of ``(seed, step)``."""

    def __init__(self, lexicon: CompiledLexicon, config: AlignConfig, seed: int) -> None:
        self.lexicon = lexicon
        self.config = config
        self.seed = seed
        assert config.words_per_step is not None, "a coverage is turned into words by prealign.training.words"
        self._most = config.words_per_step
        surfaces = len(lexicon.surface_language)
        self._form = np.arange(surfaces) * FORMS + lexicon.usual_form
        self._row_of = _first_of_equal_spelling(lexicon, self._form)
        offsets = lexicon.translation_offsets
        self._sources = np.flatnonzero((offsets[:, :, 1] > offsets[:, :, 0]).any(axis=1))
        self._weights = lexicon.counts[self._sources].astype(np.float64) ** config.sampling_power
        self._place = np.full(surfaces, -1, dtype=np.int64)  # scratch: surface -> row of the batch

    def draws_per_step(self) -> tuple[np.ndarray, np.ndarray]:
        """Source words that have translations, as entries of the lexicon, and how often a batch draws each of them on
        average; spellings that two words of a batch share are not taken into account.

        A race in which word i arrives after an exponential time of rate ``w_i`` is over at a time T, when the batch is
        full; word i has arrived with probability ``1 - exp(-w_i T)``, and T is where the rows add up.
        """
        counts = self.lexicon.translation_offsets[self._sources]
        rows = 1 + np.minimum(counts[:, :, 1] - counts[:, :, 0], self.config.max_translations).sum(axis=1)
        if len(rows) == 0 or rows.sum() <= self._most:
            return self._sources, np.ones(len(rows))
        low, high = 0.0, 1.0
        while rows @ -np.expm1(-self._weights * high) < self._most:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            full = rows @ -np.expm1(-self._weights * middle) >= self._most
            low, high = (low, middle) if full else (middle, high)
        return self._sources, -np.expm1(-self._weights * high)

    def words(self, step: int) -> np.ndarray:
        """Surfaces of the batch's rows, each spelling once, groups of a source word and its translations in a row."""
        entries, translations = self._draw(step)
        flat = np.concatenate(
            [np.append(entry, group) for entry, group in zip(entries, translations)] or [np.empty(0, np.int64)]
        )
        rows = self._row_of[flat.astype(np.int64)]
        first = np.sort(np.unique(rows, return_index=True)[1])
        # the groups were drawn in order; cut before the first group that does not fit any more
        sizes = np.array([1 + len(group) for group in translations], dtype=np.int64)
        group_of = np.repeat(np.arange(len(sizes)), sizes)[first]
        used = np.searchsorted(group_of, np.arange(len(sizes)), side="right")
        groups = int(np.searchsorted(used, self._most, side="right"))
        return rows[first][group_of < max(groups, 1)]

    def batch(self, step: int) -> WordBatch:
        """The word batch of a step."""
        rows = self.words(step)
        lexicon = self.lexicon
        tokens, lengths = lexicon.tokens_of(self._form[rows])
        return WordBatch(
            torch.from_numpy(tokens.astype(np.int64)),
            torch.from_numpy(lengths),
            torch.from_numpy(lexicon.surface_language[rows].astype(np.int64)),
            tuple(lexicon.languages),
            self._relations(rows, step),
        )

    def _draw(self, step: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Source words without repetition, in drawing order, and their capped translations."""
        lexicon, config = self.lexicon, self.config
        usable = self._sources
        draws = uniform(mix(self.seed, step, usable))
        # Exponential races: the k smallest of E_i / weight_i are a draw of k without replacement, by weight
        races = -np.log1p(-draws) / self._weights
        count = min(len(usable), self._most)
        order = np.argpartition(races, count - 1)[:count] if count else np.empty(0, np.int64)
        order = order[np.lexsort((order, races[order]))]
        entries = usable[order]
        translations = []
        for offsets in lexicon.translation_offsets[entries]:
            capped = [lexicon.translations[a : min(b, a + config.max_translations)] for a, b in offsets]
            translations.append(np.concatenate(capped))
        return entries, translations

    def _relations(self, rows: np.ndarray, step: int) -> Relations:
        """Every pair of the table whose two words are in the batch, drawn together or not, is positive."""
        lexicon, config = self.lexicon, self.config
        size = len(rows)
        place = self._place
        place[rows] = np.arange(size)
        present = np.flatnonzero(place[self._row_of[: len(lexicon)]] >= 0)
        begin, end = lexicon.translation_offsets[present, :, 0], lexicon.translation_offsets[present, :, 1]
        surfaces = lexicon.translations[ranges(begin.ravel(), (end - begin).ravel())]
        entry = np.repeat(present, (end - begin).sum(axis=1))
        source_row = place[self._row_of[entry]]
        target_row = place[self._row_of[surfaces]]
        there = (target_row >= 0) & (target_row != source_row)
        entry, source_row, target_row = entry[there], source_row[there], target_row[there]
        place[rows] = -1

        left, right = _pairs_within(entry, target_row)
        positive = _unique_pairs(
            np.concatenate((source_row, target_row)), np.concatenate((target_row, source_row)), size
        )
        siblings = _unique_pairs(left, right, size)
        siblings = siblings[~np.isin(siblings, positive)]
        if config.siblings == "positive":
            positive, siblings = np.union1d(positive, siblings), siblings[:0]
        elif config.siblings == "negative":
            siblings = siblings[:0]

        anchor = np.zeros(size, dtype=bool)
        anchor[source_row if config.anchors == "source" else positive // max(size, 1)] = True
        anchors = np.flatnonzero(anchor)
        keep = math.ceil(config.anchor_fraction * len(anchors))
        draws = mix(self.seed, step, _ANCHORS, rows[anchors])
        chosen = anchors[np.lexsort((anchors, draws))[:keep]]
        weight = np.zeros(size)
        weight[chosen] = 1 / max(keep, 1)
        return Relations(_csr(positive, size), _csr(siblings, size), torch.from_numpy(weight.astype(np.float32)))


def table_rows(lexicon: CompiledLexicon, max_translations: int) -> int:
    """Rows of a batch that held the whole table: source words that have translations, and these, capped at so many a
    language; each spelling once."""
    begin, end = lexicon.translation_offsets[:, :, 0], lexicon.translation_offsets[:, :, 1]
    counts = np.minimum(end - begin, max_translations)
    sources = np.flatnonzero(counts.any(axis=1))
    translations = lexicon.translations[ranges(begin.ravel(), counts.ravel())]
    forms = np.arange(len(lexicon.surface_language)) * FORMS + lexicon.usual_form
    spelling = _first_of_equal_spelling(lexicon, forms)
    return len(np.unique(spelling[np.concatenate((sources, translations)).astype(np.int64)]))


def _first_of_equal_spelling(lexicon: CompiledLexicon, forms: np.ndarray) -> np.ndarray:
    """For each surface the first surface whose usual form has the same tokens."""
    first: dict[bytes, int] = {}
    offsets = lexicon.form_offsets
    spelled = (lexicon.form_tokens[offsets[form] : offsets[form + 1]].tobytes() for form in forms)
    return np.fromiter((first.setdefault(key, surface) for surface, key in enumerate(spelled)), np.int64, len(forms))


def _pairs_within(group: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different members of the same group; ``group`` is ascending."""
    _, start, size = np.unique(group, return_index=True, return_counts=True)
    own = np.repeat(size, size)
    left = np.repeat(member, own)
    right = member[ranges(np.repeat(start, size), own)]
    different = left != right
    return left[different], right[different]


def _unique_pairs(left: np.ndarray, right: np.ndarray, size: int) -> np.ndarray:
    return np.unique(left * size + right)


def _csr(pairs: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    flat = torch.from_numpy(pairs.astype(np.int64))
    return csr(flat // max(size, 1), flat % max(size, 1), size)
