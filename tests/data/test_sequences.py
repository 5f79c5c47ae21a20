"""Windows of a token stream, code-switched, against a literal walk over the whole text."""

from pathlib import Path

import numpy as np
import pytest

from prealign.data.sequences import Switching, TokenStream
from prealign.data.switching import IGNORED, Switcher
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.stores.codeswitch_map import CodeSwitchMap, build_codeswitch_map
from prealign.stores.token_store import StoreWriter, TokenStore
from prealign.stores.word_map import WordMap, WordMapWriter

VOCABULARY = 4000


class Corpus:
    """A random text of documents, its words, a lexicon that translates about half of them, and all files on disk."""

    def __init__(self, folder: Path, seed: int, tokens: int, longest: int) -> None:
        random = np.random.default_rng(seed)
        kinds = [list(random.integers(10, 900, random.integers(1, longest + 1))) for _ in range(30)]
        self.words: list[tuple[int, int]] = []
        self.kind: list[int] = []
        self.tokens: list[int] = []
        with StoreWriter(folder / "t", VOCABULARY) as store, WordMapWriter(folder / "t.words") as words:
            while len(self.tokens) < tokens:
                document: list[int] = []
                spans = []
                for _ in range(random.integers(1, 40)):
                    document += list(random.integers(900, 999, random.integers(0, 3)))
                    kind = int(random.integers(len(kinds)))
                    spans.append((len(document), len(document) + len(kinds[kind])))
                    self.kind.append(kind)
                    document += kinds[kind]
                document.append(999)
                self.words += [(a + len(self.tokens), b + len(self.tokens)) for a, b in spans]
                self.tokens += document
                store.append(np.array(document))
                words.append(len(document), *np.array(spans).T)
        self.store = TokenStore(folder / "t")
        self.word_map = WordMap(folder / "t.words")
        self.lexicon = self._lexicon(kinds[:15], random, longest)
        marks = np.zeros(VOCABULARY, np.uint8)
        facts = build_codeswitch_map(folder / "t.cs", self.store, self.word_map, self.lexicon, marks)
        assert facts["words"] == len(self.words)
        self.values = CodeSwitchMap(folder / "t.cs", self.word_map.words)

    @staticmethod
    def _lexicon(kinds: list[list[int]], random: np.random.Generator, longest: int) -> CompiledLexicon:
        translations = [list(random.integers(1000, 3999, random.integers(1, longest + 1))) for _ in kinds]
        forms = [tokens for tokens in kinds + translations for _ in range(FORMS)]
        arrays = {
            "form_offsets": np.cumsum([0, *map(len, forms)]),
            "form_tokens": np.array([token for tokens in forms for token in tokens], dtype=np.int32),
            "surface_language": np.repeat([0, 1], len(kinds)).astype(np.uint8),
            "usual_form": np.zeros(2 * len(kinds), dtype=np.uint8),
            "counts": np.arange(len(kinds), 0, -1),
            "translation_offsets": np.arange(len(kinds) + 1),
            "translations": np.arange(len(kinds), 2 * len(kinds), dtype=np.int32),
        }
        return CompiledLexicon(["en", "xx"], arrays)

    def replacements(self, switcher: Switcher, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every word of the text: the form that replaces it, or -1; whether it has a translation."""
        values = self.values.read(np.array([0]), np.array([len(self.words)]))
        chosen, form, eligible = switcher.choose(values, np.arange(len(self.words)), epoch)
        replacement = np.full(len(self.words), -1)
        replacement[chosen] = form
        return replacement, eligible

    def literal(self, switcher: Switcher, begin: int, length: int, epoch: int) -> tuple[list[int], list[int]]:
        """The first ``length`` (input, target) pairs from token ``begin`` of the text, read as a ring."""
        replacement, _ = self.replacements(switcher, epoch)
        offsets, flat = self.lexicon.form_offsets, self.lexicon.form_tokens
        at = {start: number for number, (start, _) in enumerate(self.words)}
        total = len(self.tokens)
        inputs: list[int] = []
        targets: list[int] = []
        position = begin
        while len(inputs) < length:
            number = at.get(position % total, -1)
            if number >= 0 and replacement[number] >= 0:
                form = replacement[number]
                new = list(flat[offsets[form] : offsets[form + 1]])
                position += self.words[number][1] - self.words[number][0]
                inputs += new
                targets += [IGNORED] * (len(new) - 1) + [self.tokens[position % total]]
            else:
                inputs.append(self.tokens[position % total])
                position += 1
                targets.append(self.tokens[position % total])
        return inputs[:length], targets[:length]


def sequences(stream: TokenStream, windows: list[int], epochs: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and word counts of windows."""
    shape = (len(windows), stream.context)
    inputs, targets = np.full(shape, -7), np.full(shape, -7)
    return inputs, targets, stream.sequences(np.array(windows), np.array(epochs), inputs, targets)


@pytest.mark.parametrize(("seed", "longest", "context", "ratio"), [(0, 3, 16, 0.5), (1, 6, 8, 1.0), (2, 90, 64, 0.3)])
def test_every_window_equals_the_literal_walk(
    tmp_path: Path, seed: int, longest: int, context: int, ratio: float
) -> None:
    corpus = Corpus(tmp_path, seed, tokens=1500, longest=longest)
    switcher = Switcher(corpus.lexicon, ratio, False, seed=5)
    stream = TokenStream(corpus.store, context, Switching(corpus.word_map, corpus.values, switcher))
    assert stream.windows == len(corpus.tokens) // context
    windows = list(np.random.default_rng(seed).permutation(stream.windows))
    for rows in (windows, windows[:1], windows[:2]):  # together or alone, in any order, each in an epoch of its own
        epochs = [window % 3 for window in rows]
        inputs, targets, _ = sequences(stream, rows, epochs)
        for row, (window, epoch) in enumerate(zip(rows, epochs)):
            expected = corpus.literal(switcher, window * context, context, epoch)
            assert inputs[row].tolist() == expected[0], window
            assert targets[row].tolist() == expected[1], window


def test_counts_are_those_of_the_words_that_start_in_the_sequence(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, 3, tokens=4000, longest=1)  # words and translations of one token: positions do not move
    switcher = Switcher(corpus.lexicon, 0.4, False, seed=5)
    stream = TokenStream(corpus.store, 32, Switching(corpus.word_map, corpus.values, switcher))
    replacement, eligible = corpus.replacements(switcher, 0)
    starts = np.array(corpus.words)[:, 0]
    for window in range(stream.windows):
        inside = (starts >= window * 32) & (starts < window * 32 + 32)
        expected = [inside.sum(), (inside & eligible).sum(), (inside & (replacement >= 0)).sum()]
        assert sequences(stream, [window], [0])[2].tolist() == [expected]


def test_counts_where_positions_move(tmp_path: Path) -> None:
    """A word counts where its place in the output lies before the sequence's end; vanilla text alike."""
    corpus = Corpus(tmp_path, 6, tokens=3000, longest=5)
    for vanilla in (False, True):
        switcher = Switcher(corpus.lexicon, 0.5, vanilla, seed=5)
        stream = TokenStream(corpus.store, 24, Switching(corpus.word_map, corpus.values, switcher))
        replacement, eligible = corpus.replacements(switcher, 0)
        offsets = corpus.lexicon.form_offsets
        for window in range(stream.windows - 4):  # the last ones may reach into the first documents
            expected, moved = [0, 0, 0], 0
            for number, (start, end) in enumerate(corpus.words):
                if start >= window * 24 and start + moved < window * 24 + 24:
                    switched = replacement[number] >= 0
                    expected = [a + b for a, b in zip(expected, (1, int(eligible[number]), int(switched)))]
                    if switched:
                        moved += int(np.diff(offsets[replacement[number] :][:2])[0]) - (end - start)
            assert sequences(stream, [window], [0])[2].tolist() == [expected]


def test_vanilla_predicts_what_stands_in_the_input(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, 4, tokens=1500, longest=4)
    switcher = Switcher(corpus.lexicon, 0.5, True, seed=5)
    stream = TokenStream(corpus.store, 16, Switching(corpus.word_map, corpus.values, switcher))
    inputs, targets, _ = sequences(stream, list(range(stream.windows)), [0] * stream.windows)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    # the last target of a window is switched where the word that starts the next one is
    assert targets[0, -1] == corpus.literal(switcher, 0, 17, 0)[0][16]


def test_without_a_switcher_the_text_is_as_it_is(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, 5, tokens=500, longest=3)
    stream = TokenStream(corpus.store, 16)
    for window in range(stream.windows):
        inputs, targets, counts = sequences(stream, [window], [0])
        ring = np.array(corpus.tokens + corpus.tokens[:1])[window * 16 : window * 16 + 17]
        assert np.array_equal(inputs[0], ring[:-1])
        assert np.array_equal(targets[0], ring[1:])
        assert not counts.any()
