"""Code-switching of one window of tokens: the input-only targets of the paper's Eq. 6, or the vanilla ones of Eq. 5.

A text is read as a stream of (input, target) pairs. A token that stays gives ``(x_t, x_{t+1})``, where ``x_{t+1}`` is
the next token of the *original* text. A word ``x_s .. x_{e-1}`` that is replaced by ``y_1 .. y_m`` gives ``(y_1, -100),
..., (y_{m-1}, -100), (y_m, x_e)``: the position before it still predicts ``x_s``, and its last position predicts the
original token after it. A sequence is the first ``length`` pairs from the window's start, so it keeps its length
whatever the words' sizes.
"""

from dataclasses import dataclass

import numpy as np

from prealign.hashing import mix, uniform
from prealign.lexicon.compiled import FORMS, CompiledLexicon

IGNORED = -100
"""Target of a position that has none."""


@dataclass(frozen=True)
class SwitchCounts:
    """Words that start in a sequence: all, those with a translation, those replaced."""

    words: int = 0
    eligible: int = 0
    switched: int = 0


@dataclass(frozen=True)
class Switcher:
    """Draws and applies replacements; a pure function of ``(seed, epoch, word number)``."""

    lexicon: CompiledLexicon
    ratio: float
    vanilla: bool
    seed: int

    def choose(self, forms: np.ndarray, ordinals: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw replacements for words.

        ``forms``: code-switch map entries (form + 1, or 0), ``[n]``. ``ordinals``: their word numbers in the corpus.
        Returns ``(replacement, eligible)``: the form number that replaces each word, or -1; whether it has a
        translation. The target language is drawn uniformly among those that translate the word, then the translation
        within it.
        """
        lexicon = self.lexicon
        replacement = np.full(len(forms), -1, dtype=np.int64)
        known = forms > 0
        form = np.where(known, forms.astype(np.int64) - 1, 0)
        ranges = lexicon.translation_offsets[form // FORMS] if len(lexicon) else np.zeros((len(forms), 1, 2), np.int64)
        counts = ranges[:, :, 1] - ranges[:, :, 0]
        languages = (counts > 0).sum(axis=1) * known
        eligible = languages > 0
        chosen = np.flatnonzero(eligible & (uniform(mix(self.seed, epoch, ordinals, 0)) < self.ratio))
        if len(chosen):
            rank = (uniform(mix(self.seed, epoch, ordinals[chosen], 1)) * languages[chosen]).astype(np.int64)
            column = np.argmax(np.cumsum(counts[chosen] > 0, axis=1) == (rank + 1)[:, None], axis=1)
            available = counts[chosen, column]
            pick = (uniform(mix(self.seed, epoch, ordinals[chosen], 2)) * available).astype(np.int64)
            surface = lexicon.translations[ranges[chosen, column, 0] + pick].astype(np.int64)
            replacement[chosen] = surface * FORMS + form[chosen] % FORMS
        return replacement, eligible

    def apply(
        self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, replacement: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Input and target streams of ``tokens[:-1]`` with words replaced.

        ``tokens`` holds one token more than is read, the target of the last; words ``starts[i]:ends[i]`` lie within
        ``tokens[:-1]``, disjoint and ascending. Returns ``(inputs, targets)``, int64, equally long (vanilla: one
        position shorter, since the last position's target would be the next word's translation).
        """
        size = len(tokens) - 1
        inputs = tokens[:-1].astype(np.int64)
        targets = tokens[1:].astype(np.int64)
        chosen = np.flatnonzero(replacement >= 0)
        if len(chosen) == 0:
            return inputs, targets
        begin, end, form = starts[chosen], ends[chosen], replacement[chosen]
        first = self.lexicon.form_offsets[form]
        width = self.lexicon.form_offsets[form + 1] - first

        # Every output position copies an original position; inside a replaced word it takes a translation token
        # instead.
        repeats = np.ones(size, dtype=np.int64)
        covered = np.repeat(begin - np.cumsum(end - begin) + (end - begin), end - begin) + np.arange(
            (end - begin).sum()
        )
        repeats[covered] = 0
        repeats[begin] = width
        place = np.cumsum(repeats) - repeats  # where each original position's output begins
        out_inputs = np.repeat(inputs, repeats)
        out_targets = np.repeat(targets, repeats)
        inner = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
        where = np.repeat(place[begin], width) + inner
        out_inputs[where] = self.lexicon.form_tokens[np.repeat(first, width) + inner]
        out_targets[where] = IGNORED
        out_targets[place[begin] + width - 1] = targets[end - 1]
        if self.vanilla:
            return out_inputs[:-1], out_inputs[1:]
        return out_inputs, out_targets
