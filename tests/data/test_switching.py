"""Input-only code-switching against a literal reading of its definition (paper, Eq. 6)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.data.switching import IGNORED, Replacements, Switcher
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.stores.codeswitch_map import OWN_CAPITALS, WRITINGS

WORDS = 7
TARGETS = 3


def lexicon_of(translations: dict[tuple[int, int], list[list[int]]]) -> CompiledLexicon:
    """A lexicon of `WORDS` entries; ``translations[entry, target]`` lists token sequences (all six forms alike)."""
    surfaces: list[list[int]] = [[1] for _ in range(WORDS)]
    language = [0] * WORDS
    offsets, flat = [0], []
    for entry in range(WORDS):
        for target in range(TARGETS):
            for tokens in translations.get((entry, target), []):
                flat.append(len(surfaces))
                surfaces.append(tokens)
                language.append(target + 1)
            offsets.append(len(flat))
    forms = [tokens for tokens in surfaces for _ in range(FORMS)]
    arrays = {
        "form_offsets": np.cumsum([0, *map(len, forms)]),
        "form_tokens": np.array([token for tokens in forms for token in tokens], dtype=np.int32),
        "surface_language": np.array(language, dtype=np.uint8),
        "usual_form": np.zeros(len(surfaces), dtype=np.uint8),
        "counts": np.arange(WORDS, 0, -1),
        "translation_offsets": np.array(offsets),
        "translations": np.array(flat, dtype=np.int32),
    }
    return CompiledLexicon(["en", "de", "zh", "ar"], arrays)


def replacements(switcher: Switcher, values: np.ndarray, ordinals: np.ndarray, epoch: int | np.ndarray) -> np.ndarray:
    """The form that replaces each word, or -1."""
    chosen, replacement, _ = switcher.choose(values, ordinals, epoch)
    result = np.full(len(values), -1)
    result[chosen] = replacement
    return result


def literal(
    tokens: list[int], words: list[tuple[int, int]], replacement: list[list[int] | None], vanilla: bool
) -> tuple[list[int], list[int]]:
    """The definition, word by word: inputs and targets of ``tokens[:-1]``."""
    replaced = {start: (end, new) for (start, end), new in zip(words, replacement) if new is not None}
    inputs: list[int] = []
    targets: list[int] = []
    position = 0
    while position < len(tokens) - 1:
        if position in replaced:
            end, new = replaced[position]
            for number, token in enumerate(new):
                inputs.append(token)
                # y_1 .. y_{m-1} have no target; y_m predicts the token after the word, as the source text has it
                targets.append(tokens[end] if number == len(new) - 1 else IGNORED)
            position = end
        else:
            inputs.append(tokens[position])
            targets.append(tokens[position + 1])  # of a following replaced word: its original first subword
            position += 1
    if vanilla:
        return inputs[:-1], inputs[1:]
    return inputs, targets


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]], list[list[int] | None]]:
    """Tokens cut into words of 1 to 4 tokens and gaps (often none: adjacent words), some words replaced by 1 to 5."""
    tokens: list[int] = []
    words: list[tuple[int, int]] = []
    replacement: list[list[int] | None] = []
    for _ in range(draw(st.integers(1, 8))):
        tokens += draw(st.lists(st.integers(10, 99), max_size=2))
        length = draw(st.integers(1, 4))
        words.append((len(tokens), len(tokens) + length))
        tokens += [draw(st.integers(10, 99)) for _ in range(length)]
        replacement.append(draw(st.none() | st.lists(st.integers(100, 999), min_size=1, max_size=5)))
    tokens += draw(st.lists(st.integers(10, 99), max_size=2))
    tokens.append(draw(st.integers(10, 99)))  # the target of the last position
    return tokens, words, replacement


@given(texts(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_apply_equals_the_literal_definition(
    text: tuple[list[int], list[tuple[int, int]], list[list[int] | None]], vanilla: bool
) -> None:
    tokens, words, replacement = text
    table: dict[tuple[int, int], list[list[int]]] = {(0, 0): [new for new in replacement if new is not None]}
    lexicon = lexicon_of(table)
    forms = iter(range(WORDS * FORMS, (WORDS + len(replacement)) * FORMS, FORMS))
    chosen = np.array([new is not None for new in replacement])
    form = np.array([next(forms) for new in replacement if new is not None], dtype=np.int64)
    starts, ends = np.array(words)[chosen].reshape(-1, 2).T
    expected = literal(tokens, words, replacement, vanilla)
    if vanilla and not chosen.any():  # nothing switched: plain text
        expected = (tokens[:-2], tokens[1:-1])
    # the text stands in three rows: alone, between rows that are switched and rows that are not
    rows = np.array([tokens] * 3, dtype=np.uint16)
    both = Replacements(
        np.repeat([0, 2], len(starts)), *(np.concatenate((part, part)) for part in (starts, ends, form))
    )
    length = len(expected[0])
    inputs, targets = np.empty((3, length), np.int64), np.empty((3, length), np.int64)
    begin, shift, filled = Switcher(lexicon, 0.5, vanilla, seed=0).apply(rows, both, inputs, targets)
    assert filled.tolist() == [length, len(tokens) - 1 - vanilla, length]
    for row in (0, 2):
        assert [inputs[row].tolist(), targets[row].tolist()] == [list(part) for part in expected]
    plain = min(length, len(tokens) - 1 - vanilla)
    assert inputs[1, :plain].tolist() == tokens[:plain]
    for number, place in enumerate(begin[: len(starts)]):
        first = lexicon.form_offsets[form[number]]
        assert place == length or inputs[0, place] == lexicon.form_tokens[first]
        width = lexicon.form_offsets[form[number] + 1] - first
        assert place + width == ends[number] + shift[number]


def test_draws_do_not_depend_on_what_is_drawn_together() -> None:
    lexicon = lexicon_of({(word, 0): [[100 + word]] for word in range(WORDS)})
    switcher = Switcher(lexicon, 0.5, False, seed=3)
    values = np.arange(40) % WORDS * WRITINGS + 1
    ordinals = np.arange(1000, 1040)
    together = replacements(switcher, values, ordinals, 2)
    apart = [replacements(switcher, values[i : i + 1], ordinals[i : i + 1], 2) for i in range(40)]
    assert np.array_equal(together, np.concatenate(apart))
    another_epoch = replacements(switcher, values, ordinals, 3)
    assert not np.array_equal(together, another_epoch)
    mixed = replacements(switcher, np.tile(values, 2), np.tile(ordinals, 2), np.repeat([2, 3], 40))
    assert np.array_equal(mixed, np.concatenate((together, another_epoch)))


def test_ratio_and_uniformity() -> None:
    """5 % of the words that have a translation; languages uniform first, then translations within the language."""
    lexicon = lexicon_of({(0, 0): [[100]], (0, 1): [[200], [201], [202]], (1, 2): [[300]]})
    switcher = Switcher(lexicon, 0.05, False, seed=1)
    count = 400_000
    entries = np.arange(count) % 3  # the third word has no translation
    values = entries * WRITINGS + 1
    replacement, eligible = replacements(switcher, values, np.arange(count), 0), switcher.choose(values, values, 0)[2]
    assert np.array_equal(eligible, entries < 2)
    switched = replacement >= 0
    assert not switched[~eligible].any()
    assert switched.sum() / eligible.sum() == pytest.approx(0.05, abs=0.0015)
    surface = replacement[switched & (entries == 0)] // FORMS - WORDS
    counts = np.bincount(surface, minlength=4)
    expected = np.array([1 / 2, 1 / 6, 1 / 6, 1 / 6]) * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_ratio_over_ten_million_words() -> None:
    """5.0 % +- 0.05 of the words with a translation; uniform over languages, and over translations within one."""
    table = {(w, t): [[100 + 10 * w + t + k] for k in range(1 + (w + t) % 3)] for w in range(6) for t in range(TARGETS)}
    lexicon = lexicon_of(table)
    switcher = Switcher(lexicon, 0.05, False, seed=11)
    observed = np.zeros(len(lexicon.surface_language))
    switched = eligible = 0
    for first in range(0, 10_000_000, 1_000_000):
        ordinals = np.arange(first, first + 1_000_000)
        chosen, form, can = switcher.choose(ordinals % WORDS * WRITINGS + 1, ordinals, 3)
        switched, eligible = switched + len(chosen), eligible + int(can.sum())
        observed += np.bincount(form // FORMS, minlength=len(observed))
    assert switched / eligible == pytest.approx(0.05, abs=0.0005)
    languages = np.bincount(lexicon.surface_language, observed)[1:]
    assert (((languages - switched / TARGETS) ** 2) / (switched / TARGETS)).sum() < 13.8  # 2 degrees, p = 0.001
    counts = lexicon.translation_offsets[:6, :, 1] - lexicon.translation_offsets[:6, :, 0]
    expected = np.repeat(switched / 18 / counts.ravel(), counts.ravel())
    found = observed[lexicon.translations]
    assert ((found - expected) ** 2 / expected).sum() < 70.7  # 35 degrees of freedom, p < 0.0005


def test_words_outside_the_table_stay() -> None:
    lexicon = lexicon_of({(0, 0): [[100]]})
    chosen, _, eligible = Switcher(lexicon, 1.0, False, seed=0).choose(np.zeros(5, np.uint16), np.arange(5), 0)
    assert not eligible.any()
    assert len(chosen) == 0


def test_a_form_is_replaced_by_the_same_form() -> None:
    lexicon = lexicon_of({(2, 1): [[50, 51]]})
    values = 2 * WRITINGS + np.arange(FORMS) + 1
    replacement = replacements(Switcher(lexicon, 1.0, False, seed=0), values, np.arange(FORMS), 0)
    assert np.array_equal(replacement, WORDS * FORMS + np.arange(FORMS))


def test_own_capitals_give_the_usual_form() -> None:
    """A translation is written as itself is, with a space where the word has one."""
    lexicon = lexicon_of({(2, 1): [[50, 51]]})
    values = 2 * WRITINGS + OWN_CAPITALS + np.array([0, 1]) + 1
    for case in range(3):
        lexicon.usual_form[WORDS] = 2 * case + 1
        replacement = replacements(Switcher(lexicon, 1.0, False, seed=0), values, np.arange(2), 0)
        assert replacement.tolist() == [WORDS * FORMS + 2 * case, WORDS * FORMS + 2 * case + 1]
