"""Sequences: windows of a language's token stream, code-switched where asked for."""

from dataclasses import dataclass

import numpy as np

from prealign.corpus.codeswitch_map import CodeSwitchMap
from prealign.corpus.store import TokenStore
from prealign.corpus.switching import SwitchCounts, Switcher
from prealign.corpus.wordmap import WordMap

_EXTRA = 64


@dataclass(frozen=True)
class Sequence:
    """``inputs`` and ``targets``: int64 ``[context]``."""

    inputs: np.ndarray
    targets: np.ndarray
    counts: SwitchCounts


@dataclass(frozen=True)
class TokenStream:
    """One language's training tokens, cut into windows of ``context`` tokens.

    The stream is a ring: after the last document comes the first, so a sequence whose words shrink at the end of the
    store is filled as any other is. ``switcher`` is None where text is not code-switched.
    """

    store: TokenStore
    context: int
    words: WordMap | None = None
    forms: CodeSwitchMap | None = None
    switcher: Switcher | None = None
    every_token: bool = False
    """Count a last window that runs over into the ring's beginning, so that no token is left out."""

    @property
    def windows(self) -> int:
        """Windows of the stream: the whole ones, or with `every_token` one more for the rest."""
        return -(-len(self.store) // self.context) if self.every_token else len(self.store) // self.context

    def sequence(self, window: int, epoch: int) -> Sequence:
        """The ``window``-th sequence, as ``epoch`` switches it."""
        begin = window * self.context
        if self.switcher is None:
            tokens = self._ring(begin, self.context + 1)
            return Sequence(tokens[:-1].astype(np.int64), tokens[1:].astype(np.int64), SwitchCounts())
        size = self.context + _EXTRA
        while True:
            inputs, targets, starts, eligible, replaced = self._switched(begin, size, epoch)
            if len(inputs) >= self.context:
                break
            size += self.context  # many words shrank, or a long word stands at the end: read on
        inside = starts < self.context
        counts = SwitchCounts(int(inside.sum()), int((inside & eligible).sum()), int((inside & replaced).sum()))
        return Sequence(inputs[: self.context], targets[: self.context], counts)

    def _switched(
        self, begin: int, size: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Streams of about ``size`` tokens from ``begin``: inputs, targets, and per word its output position, whether
        it has a translation, whether it was replaced."""
        assert self.switcher is not None
        assert self.words is not None
        assert self.forms is not None
        parts = []
        for first, last in self._pieces(begin, size):
            starts, ends, ordinal, stop = self.words.between(first, last)
            ordinals = np.arange(ordinal, ordinal + len(starts))
            forms = self.forms.forms[ordinal : ordinal + len(starts)]
            parts.append((starts, ends, forms, ordinals, stop))
            if stop < last - first:
                break  # a word is cut by the end of what was read
        shift = 0
        shifted = []
        for starts, ends, forms, ordinals, stop in parts:
            shifted.append((starts + shift, ends + shift, forms, ordinals))
            shift += stop
        starts, ends, forms, ordinals = (np.concatenate(columns) for columns in zip(*shifted))
        replacement, eligible = self.switcher.choose(forms, ordinals, epoch)
        inputs, targets = self.switcher.apply(self._ring(begin, shift + 1), starts, ends, replacement)
        replaced = replacement >= 0
        offsets = self.switcher.lexicon.form_offsets
        grown = np.where(replaced, offsets[replacement + 1] - offsets[replacement] - (ends - starts), 0)
        return inputs, targets, starts + np.cumsum(grown) - grown, eligible, replaced

    def _pieces(self, begin: int, size: int) -> list[tuple[int, int]]:
        """The ring's tokens ``begin : begin + size`` as ranges of the store."""
        total = len(self.store)
        pieces = []
        while size > 0:
            first = begin % total
            last = min(first + size, total)
            pieces.append((first, last))
            begin, size = last, size - (last - first)
        return pieces

    def _ring(self, begin: int, size: int) -> np.ndarray:
        pieces = [self.store.tokens[first:last] for first, last in self._pieces(begin, size)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
