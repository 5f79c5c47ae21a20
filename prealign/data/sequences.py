"""Sequences: windows of a language's token stream, code-switched where asked for."""

from dataclasses import dataclass

import numpy as np

from prealign.data.switching import Replacements, Switcher
from prealign.stores.codeswitch_map import CodeSwitchMap
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap

_EXTRA = 64
"""Tokens read past a window, for words that shrink; where they do not suffice, more is read."""


@dataclass(frozen=True)
class Switching:
    """What code-switching a token stream takes: where its words are, which of them are in the table and how they are
    written, and who replaces them."""

    words: WordMap
    values: CodeSwitchMap
    switcher: Switcher


@dataclass(frozen=True)
class TokenStream:
    """One language's training tokens, cut into windows of ``context`` tokens.

    The stream is a ring: after the last document comes the first, so a sequence whose words shrink at the end of the
    store is filled as any other is. ``switching`` is None where text is not code-switched.
    """

    store: TokenStore
    context: int
    switching: Switching | None = None
    every_token: bool = False
    """Count a last window that runs over into the ring's beginning, so that no token is left out."""

    @property
    def windows(self) -> int:
        """Windows of the stream: the whole ones, or with `every_token` one more for the rest."""
        return -(-len(self.store) // self.context) if self.every_token else len(self.store) // self.context

    def sequences(self, windows: np.ndarray, epochs: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Write the sequences of several windows, each as its epoch switches it.

        ``windows``, ``epochs``: int64 ``[n]``. ``inputs``, ``targets``: int64 ``[n, context]``, filled. Returns the
        words that start in each sequence: all, those with a translation, those replaced; int64 ``[n, 3]`` (zeros where
        text is not code-switched).
        """
        begins = np.asarray(windows, np.int64) * self.context
        if self.switching is None:
            tokens = self._tokens(begins, self.context + 1)
            inputs[:] = tokens[:, :-1]
            targets[:] = tokens[:, 1:]
            return np.zeros((len(begins), 3), np.int64)
        counts = np.empty((len(begins), 3), np.int64)
        todo = np.arange(len(begins))
        size = self.context + _EXTRA
        filled = self._switch(self.switching, begins, epochs, size, inputs, targets, counts)
        while len(todo := todo[filled < self.context]):  # many words shrank, or a long word stands at the end
            size += self.context
            parts = np.empty((len(todo), self.context), np.int64), np.empty((len(todo), self.context), np.int64)
            some = np.empty((len(todo), 3), np.int64)
            filled = self._switch(self.switching, begins[todo], epochs[todo], size, *parts, some)
            inputs[todo], targets[todo], counts[todo] = *parts, some
        return counts

    def _switch(
        self,
        switching: Switching,
        begins: np.ndarray,
        epochs: np.ndarray,
        size: int,
        inputs: np.ndarray,
        targets: np.ndarray,
        counts: np.ndarray,
    ) -> np.ndarray:
        """Fill ``inputs``, ``targets`` and ``counts`` from ``size`` tokens per row; returns how many pairs those gave
        (``[n]``): a row with fewer than ``context`` is not yet right."""
        rows = len(begins)
        tokens = self._tokens(begins, size + 1)
        bits = np.empty((rows, 2 * size), np.uint8)
        for row, begin in enumerate(begins.tolist()):
            place = 0
            for first, last in self._pieces(begin, size):
                bits[row, place : place + 2 * (last - first)] = switching.words.bits(first, last)
                place += 2 * (last - first)

        # the words that start in each row, as positions in all rows one after the other
        starts = np.flatnonzero(np.ascontiguousarray(bits[:, 0::2]).view(bool))
        bounds = np.searchsorted(starts, np.arange(rows + 1) * size)
        per_row = np.diff(bounds)
        ordinal = switching.words.ordinals(begins)
        ordinals = np.arange(len(starts)) + np.repeat(ordinal - bounds[:-1], per_row)
        if len(ordinals) and ordinals.max() >= switching.words.words:
            ordinals %= switching.words.words
        values = switching.values.read(ordinal, per_row)
        same = rows == 1 or not np.any(epochs != epochs[0])
        epoch = int(epochs[0]) if same else np.repeat(epochs, per_row)
        chosen, form, eligible = switching.switcher.choose(values, ordinals, epoch)

        # where the chosen words end; one whose end was not read ends its row there
        row, start = np.divmod(starts[chosen], size)
        end = _ends(bits, row, start)
        whole = end <= size
        kept = Replacements(row[whole], start[whole], end[whole], form[whole])
        begin, shift, filled = switching.switcher.apply(tokens, kept, inputs, targets)
        filled[row[~whole]] += start[~whole] - size

        # the words that start in a sequence: in the original, those before the token at which it ends
        length = self.context
        counts[:, 2] = np.bincount(kept.row[begin < length], minlength=rows)
        last = np.searchsorted(kept.row, np.arange(rows)) + counts[:, 2] - 1
        stop = np.full(rows, length)
        some = counts[:, 2] > 0
        stop[some] = np.maximum(length - shift[last[some]], kept.start[last[some]] + 1)
        stops = np.searchsorted(starts, np.arange(rows) * size + np.minimum(stop, size))
        counts[:, 0] = stops - bounds[:-1]
        counts[:, 1] = [np.count_nonzero(eligible[a:b]) for a, b in zip(bounds.tolist(), stops.tolist())]
        return filled

    def _tokens(self, begins: np.ndarray, size: int) -> np.ndarray:
        """The ring's tokens ``begin : begin + size`` for each begin, ``[n, size]``."""
        tokens = np.empty((len(begins), size), self.store.dtype)
        stored = self.store.tokens
        for row, begin in enumerate(begins.tolist()):
            place = 0
            for first, last in self._pieces(begin, size):
                tokens[row, place : place + last - first] = stored[first:last]
                place += last - first
        return tokens

    def _pieces(self, begin: int, size: int) -> list[tuple[int, int]]:
        """The ring's tokens ``begin : begin + size`` as ranges of the store."""
        total = len(self.store)
        if begin + size <= total:
            return [(begin, begin + size)]
        pieces = []
        while size > 0:
            first = begin % total
            last = min(first + size, total)
            pieces.append((first, last))
            begin, size = last, size - (last - first)
        return pieces


def _ends(bits: np.ndarray, row: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where words end, from the bits of rows of tokens ``[n, 2 * size]``; ``size + 1`` where the row ends before."""
    size = bits.shape[1] // 2
    end = np.full(len(start), size + 1)
    open_, place = np.arange(len(start)), start
    while len(open_):
        ends = bits[row[open_], 2 * place + 1] != 0
        end[open_[ends]] = place[ends] + 1
        go_on = ~ends & (place + 1 < size)
        open_, place = open_[go_on], place[go_on] + 1
    return end
