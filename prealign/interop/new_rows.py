"""Rows of an embedding for tokens that a checkpoint's tokenizer lacks, as means of rows that it has.

`model.new_rows: pieces` is what Gee et al. (2022, Fast Vocabulary Transfer) do when a vocabulary changes.
`translations` takes the alignment table for what Minixhofer et al. (2022, WECHSEL) take static word vectors for.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from prealign.config import Recipe
from prealign.data.prepared import PreparedData
from prealign.errors import UserError
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.text.tokenizer import Tokenizer, merged_parts


@dataclass(frozen=True)
class NewRows:
    """For each of ``tokens`` new rows the old ones that it is a mean of. ``translated``: how many have translations."""

    first: int
    tokens: int
    new: torch.Tensor
    """int64 ``[n]``: which new row, from 0."""
    old: torch.Tensor
    """int64 ``[n]``: which old row goes into it."""
    weight: torch.Tensor
    """fp32 ``[n]``: with how much; those of a row sum to 1."""
    translated: int

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """``table``: the old rows, fp32 ``[first, D]`` -> ``[tokens, D]``."""
        places, shape = torch.stack((self.new, self.old)), (self.tokens, self.first)
        means = torch.sparse_coo_tensor(places, self.weight, shape, check_invariants=True)
        return torch.sparse.mm(means, table)


def new_rows(recipe: Recipe, data: PreparedData) -> NewRows | None:
    """What `model.new_rows` says of the tokens of `data.tokenizer.extension`; None without any. Raises `UserError`."""
    settings = recipe.data.tokenizer
    if settings.extension is None:
        return None
    first, tokens = settings.given_size, settings.extension.tokens
    pieces = _Pieces(data.tokenizer, first)
    sources: dict[int, list[list[int]]] = {}
    if recipe.model.new_rows == "translations":
        if data.lexicon is None:
            raise UserError(
                "model.new_rows: found 'translations' without an alignment table; expected dictionaries of the new "
                "languages, or 'pieces'"
            )
        sources = _source_words(data.lexicon, pieces, first, tokens)
    rows: list[dict[int, float]] = []
    for token in range(first, first + tokens):
        row: dict[int, float] = defaultdict(float)
        words = sources.get(token) or [pieces.of([token])]
        for word in words:
            for piece in word:
                row[piece] += 1.0 / (len(words) * len(word))
        rows.append(row)
    lengths = torch.tensor([len(row) for row in rows])
    return NewRows(
        first,
        tokens,
        torch.repeat_interleave(torch.arange(tokens), lengths),
        torch.tensor([*chain.from_iterable(rows)]),
        torch.tensor([*chain.from_iterable(row.values() for row in rows)]),
        len(sources),
    )


class _Pieces:
    """What the old tokenizer, the ids below ``first``, makes of tokens."""

    def __init__(self, tokenizer: Tokenizer, first: int) -> None:
        self._tokenizer = tokenizer
        self._first = first
        self._known: dict[int, list[int]] = {}

    def of(self, tokens: list[int]) -> list[int]:
        """Old token ids for any, those of a new one as the old tokenizer cuts its bytes."""
        return [*chain.from_iterable([token] if token < self._first else self._of_new(token) for token in tokens)]

    def _of_new(self, token: int) -> list[int]:
        if token not in self._known:
            ranks = self._tokenizer.ranks
            parts = merged_parts(self._tokenizer.token_bytes(token), ranks, self._first)
            self._known[token] = [ranks[part] for part in parts]
        return self._known[token]


def _source_words(lexicon: CompiledLexicon, pieces: _Pieces, first: int, tokens: int) -> dict[int, list[list[int]]]:
    """For new tokens that are, in one of its written forms, a target word of the table: its source words in old
    tokens, each as it is usually written."""
    alone = np.flatnonzero(lexicon.form_lengths == 1)
    token_of = lexicon.form_tokens[lexicon.form_offsets[alone]]
    surfaces = alone // FORMS
    new = (token_of >= first) & (token_of < first + tokens) & (lexicon.surface_language[surfaces] > 0)
    pairs = np.unique(np.stack((surfaces[new], token_of[new]), axis=1), axis=0)
    entries = _entries_of(lexicon, {int(surface) for surface in pairs[:, 0]})
    found: dict[int, set[int]] = defaultdict(set)
    for surface, token in pairs.tolist():
        found[token] |= entries[surface]
    words = {}
    for token, sources in found.items():
        if not sources:  # the recipe's table has none of its words (`lexicon.top_fraction`)
            continue
        usual = np.array(sorted(sources))
        forms, lengths = lexicon.tokens_of(FORMS * usual + lexicon.usual_form[usual])
        words[token] = [pieces.of(form.tolist()) for form in np.split(forms, np.cumsum(lengths)[:-1])]
    return words


def _entries_of(lexicon: CompiledLexicon, surfaces: set[int]) -> dict[int, set[int]]:
    """The entries that have each of some surfaces among their translations."""
    entries: dict[int, set[int]] = {surface: set() for surface in surfaces}
    for entry, ranges in enumerate(lexicon.translation_offsets.tolist()):
        for begin, end in ranges:
            for surface in lexicon.translations[begin:end].tolist():
                if surface in entries:
                    entries[surface].add(entry)
    return entries
