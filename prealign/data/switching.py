"""Code-switching of windows of tokens: the input-only targets of the paper's Eq. 6, or the vanilla ones of Eq. 5.

A text is read as a stream of (input, target) pairs. A token that stays gives ``(x_t, x_{t+1})``, where ``x_{t+1}`` is
the next token of the *original* text. A word ``x_s .. x_{e-1}`` that is replaced by ``y_1 .. y_m`` gives ``(y_1, -100),
..., (y_{m-1}, -100), (y_m, x_e)``: the position before it still predicts ``x_s``, and its last position predicts the
original token after it. A sequence is the first ``length`` pairs from the window's start, so it keeps its length
whatever the words' sizes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.random_streams import draws, mix, uniform
from prealign.ranges import ranges
from prealign.stores.codeswitch_map import OWN_CAPITALS, WRITINGS

IGNORED = -100
"""Target of a position that has none."""


@dataclass(frozen=True)
class Replacements:
    """Words of several rows that are replaced, ordered by row and position; all ``[k]``, int64.

    ``row``: which row of tokens. ``start``, ``end``: the word's tokens in it. ``form``: the form number of the
    lexicon that takes its place.
    """

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    form: np.ndarray


@dataclass(frozen=True)
class Switcher:
    """Draws and applies replacements; a pure function of ``(seed, epoch, word number)``."""

    lexicon: CompiledLexicon
    ratio: float
    vanilla: bool
    seed: int

    @cached_property
    def _language_counts(self) -> np.ndarray:
        """How many target languages translate a word, by its value in the code-switch map, uint8."""
        offsets = self.lexicon.translation_offsets
        per_entry = (offsets[:, :, 1] > offsets[:, :, 0]).sum(axis=1).astype(np.uint8)
        return np.concatenate((np.zeros(1, np.uint8), np.repeat(per_entry, WRITINGS)))

    @cached_property
    def _switchable(self) -> np.ndarray:
        return self._language_counts > 0

    def choose(
        self, values: np.ndarray, ordinals: np.ndarray, epoch: int | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw replacements for words.

        ``values``: theirs in the code-switch map, ``[n]``. ``ordinals``: their word numbers in the corpus.
        ``epoch``: of all, or of each word. Returns ``(chosen, replacement, eligible)``: the indices of the words that
        are replaced, ascending, ``[k]``; the form number that replaces each of them, ``[k]``; whether a word has a
        translation, ``[n]``. The target language is drawn uniformly among those that translate the word, then the
        translation within it.
        """
        eligible = self._switchable.take(values)
        state = mix(self.seed, epoch)
        drawn = draws(state, ordinals, 0)
        below = np.ceil(self.ratio * 2.0**53)  # uniform(drawn) < ratio, without the floats
        hit = drawn < np.uint64(int(below) << 11) if below < 2**53 else np.ones(len(drawn), bool)
        chosen = np.flatnonzero(hit & eligible)
        if len(chosen) == 0:
            return chosen, np.empty(0, np.int64), eligible
        lexicon = self.lexicon
        entry, writing = np.divmod(values[chosen].astype(np.int64) - 1, WRITINGS)
        ordinal = ordinals[chosen]
        state = state[chosen] if state.ndim else state
        offsets = lexicon.translation_offsets[entry]
        counts = offsets[:, :, 1] - offsets[:, :, 0]
        languages = self._language_counts[values[chosen]]
        rank = (uniform(draws(state, ordinal, 1)) * languages).astype(np.int64)
        column = np.argmax(np.cumsum(counts > 0, axis=1) == (rank + 1)[:, None], axis=1)
        row = np.arange(len(chosen))
        pick = (uniform(draws(state, ordinal, 2)) * counts[row, column]).astype(np.int64)
        surface = lexicon.translations[offsets[row, column, 0] + pick].astype(np.int64)
        usual = 2 * (lexicon.usual_form[surface] // 2) + writing % 2
        return chosen, surface * FORMS + np.where(writing >= OWN_CAPITALS, usual, writing), eligible

    def apply(
        self, tokens: np.ndarray, words: Replacements, inputs: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Write the input and target streams of rows of tokens, their words replaced.

        ``tokens [n, size + 1]``: one more than is read, the target of the last. The words of a row are disjoint and
        ascending and end at ``size`` at the latest. ``inputs``, ``targets``: int64 ``[n, length]``, filled with the
        first ``length`` pairs. Returns ``(begin, shift, filled)``, int64: where in the row's output each word begins
        and by how much the text behind it has moved, each ``[k]``; how many pairs each row's tokens gave, ``[n]`` (a
        row that gave fewer than ``length`` holds nothing of use). Vanilla: the targets are the inputs one position
        on, so one pair fewer.
        """
        rows, size = tokens.shape[0], tokens.shape[1] - 1
        length = inputs.shape[1] + self.vanilla
        new, width = self.lexicon.tokens_of(words.form)
        growth = width - (words.end - words.start)
        total = np.cumsum(growth)
        per_row = np.bincount(words.row, minlength=rows)
        before_row = np.concatenate(([0], total))[np.cumsum(per_row) - per_row]
        begin = words.start + total - growth - before_row[words.row]
        filled = np.concatenate(([0], total))[np.cumsum(per_row)] - before_row + size - self.vanilla

        # Every output position copies the token after the one before it; after a word the copying goes on behind the
        # original, so it jumps by what the word has grown.
        step = np.ones((rows, length), dtype=np.int64)
        step[:, 0] = np.arange(rows) * (size + 1)
        after = begin + width
        shift = after - words.end
        jumps = np.flatnonzero(after < length)
        step[words.row[jumps], after[jumps]] -= growth[jumps]
        source = np.cumsum(step, axis=1, out=step)
        flat = tokens.reshape(-1)
        out_inputs = flat.take(source, mode="clip")
        # inside a word, the translation
        place = ranges(begin, width)
        fits = place < length
        at = (np.repeat(words.row * length, width) + place)[fits]
        new = new[fits]
        if self.vanilla:
            switched = out_inputs.astype(np.int64)
            switched.reshape(-1)[at] = new
            inputs[:] = switched[:, :-1]
            targets[:] = switched[:, 1:]
            return begin, shift, filled
        inputs[:] = out_inputs
        targets[:] = flat[1:].take(source, mode="clip")
        inside = np.divmod(at, length)
        inputs[inside] = new
        targets[inside] = IGNORED
        last = np.flatnonzero(after <= length)
        targets[words.row[last], after[last] - 1] = tokens[words.row[last], words.end[last]]
        return begin, shift, filled
