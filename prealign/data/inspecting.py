"""Samples as training sees them, for people to read: switched words marked, with their targets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from prealign.data.loader import StageDataset
from prealign.data.mixture import Phase
from prealign.data.prepared import PreparedData
from prealign.data.sequences import Switching, TokenStream
from prealign.data.switching import IGNORED
from prealign.errors import UserError
from prealign.lexicon.compiled import FORMS
from prealign.random_streams import Draw, mix

_AROUND = 24
"""Tokens shown on either side of a word, where single words are shown."""


@dataclass(frozen=True)
class Replaced:
    """A replaced word as text: what stood there, and what the model reads in its place."""

    original: str
    language: str
    translation: str


@dataclass(frozen=True)
class Sample:
    """A sequence of the pretrain stage as the model reads it."""

    heading: str
    """Its number, window and epoch, and how many of its words were replaced."""
    pieces: list[str | Replaced]
    """Its text in order."""


@dataclass(frozen=True)
class SwitchedWord:
    """A replaced word: positions ``begin:end`` of the inputs, what stood there, and the language that took its
    place."""

    begin: int
    end: int
    original: np.ndarray
    language: str


def inspect(data: PreparedData, samples: int, language: str | None, say: Callable[[str], None]) -> None:
    """Print the first ``samples`` of the pretrain stage's source text, or with a target ``language`` that many words
    that were replaced by one of its words, with the text around them. Raises `UserError`."""
    recipe = data.recipe
    known = [recipe.source_language, *recipe.targets]
    if language is not None and language not in known:
        raise UserError(f"--language: found '{language}'; expected one of {known}")
    if language not in (None, recipe.source_language) and not _switching(data):
        raise UserError(
            f"--language {language}: nothing is code-switched with codeswitch.ratio={recipe.codeswitch.ratio} and "
            f"{'a' if data.switching_lexicon is not None else 'no'} table of translations; expected both"
        )
    shown = 0
    for sequence in _sequences(data):
        if shown >= samples:
            break
        inputs, targets, found = sequence.inputs, sequence.targets, sequence.found
        if language is None or language == recipe.source_language:
            say(f"--- {sequence.heading}")
            say(_marked(data, inputs, found, 0, len(inputs)))
            for word in found:
                say("  " + _targets(data, inputs, targets, word))
            shown += 1
            continue
        for word in [word for word in found if word.language == language][: samples - shown]:
            say(_marked(data, inputs, found, word.begin - _AROUND, word.end + _AROUND))
            say("  " + _targets(data, inputs, targets, word))
            shown += 1


def first_samples(data: PreparedData, samples: int) -> list[Sample]:
    """The first sequences of the pretrain stage's source text."""
    return [
        Sample(sequence.heading, list(_pieces(data, sequence.inputs, sequence.found, 0, len(sequence.inputs))))
        for sequence in islice(_sequences(data), samples)
    ]


@dataclass(frozen=True)
class _Sequence:
    heading: str
    inputs: np.ndarray
    """int64 ``[context]``, as ``targets``."""
    targets: np.ndarray
    found: list[SwitchedWord]


def _switching(data: PreparedData) -> bool:
    return data.switching_lexicon is not None and data.recipe.codeswitch.ratio > 0


def _sequences(data: PreparedData) -> Iterator[_Sequence]:
    """Sequences of the source text in the pretrain stage's order."""
    recipe = data.recipe
    number = list(recipe.languages).index(recipe.source_language)
    stream = data.streams(code_switch=_switching(data))[number]
    dataset = StageDataset([stream], Phase((stream.windows,), (0,), 0), int(mix(recipe.seed, Draw.WINDOW_ORDER)))
    for sample in range(stream.windows):
        _, (epoch,), (window,) = dataset.locate(np.array([sample]))
        shape = (1, stream.context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        words, eligible, switched = stream.sequences(np.array([window]), np.array([epoch]), inputs, targets)[0]
        found = list(_switched_words(stream, stream.switching, int(window), int(epoch))) if stream.switching else []
        heading = (
            f"sample {sample}: window {window} of {stream.windows}, epoch {epoch}; {switched} of {eligible} "
            f"words with a translation replaced ({words} words)"
        )
        yield _Sequence(heading, inputs[0], targets[0], found)


def _switched_words(stream: TokenStream, switching: Switching, window: int, epoch: int) -> Iterator[SwitchedWord]:
    """The replaced words that lie whole in a sequence, found again from the maps, word by word."""
    lexicon = switching.switcher.lexicon
    begin = window * stream.context
    last = min(begin + stream.context, len(stream.store))
    starts, ends, ordinal, _ = switching.words.between(begin, last)
    values = switching.values.read(np.array([ordinal]), np.array([len(starts)]))
    chosen, replacement, _ = switching.switcher.choose(values, np.arange(ordinal, ordinal + len(starts)), epoch)
    moved = 0
    for word, form in zip(chosen.tolist(), replacement.tolist()):
        width = int(lexicon.form_offsets[form + 1] - lexicon.form_offsets[form])
        first = int(starts[word]) + moved
        if first + width > stream.context:
            return
        original = stream.store.tokens[begin + starts[word] : begin + ends[word]]
        yield SwitchedWord(first, first + width, original, lexicon.languages[lexicon.surface_language[form // FORMS]])
        moved += width - int(ends[word] - starts[word])


def _text(data: PreparedData, tokens: np.ndarray) -> str:
    """Decoded tokens; those of a clone as the words they stand for."""
    return data.tokenizer.decode(np.asarray(tokens, np.int64) % data.recipe.data.tokenizer.vocab_size)


def _pieces(
    data: PreparedData, inputs: np.ndarray, words: list[SwitchedWord], begin: int, end: int
) -> Iterator[str | Replaced]:
    """Inputs ``begin:end`` as text and replaced words."""
    place, end = max(begin, 0), min(end, len(inputs))
    for word in words:
        if word.begin < place or word.end > end:
            continue
        new = _text(data, inputs[word.begin : word.end])
        yield _text(data, inputs[place : word.begin]) + (" " if new.startswith(" ") else "")
        yield Replaced(_text(data, word.original).removeprefix(" "), word.language, new.removeprefix(" "))
        place = word.end
    yield _text(data, inputs[place:end])


def _marked(data: PreparedData, inputs: np.ndarray, words: list[SwitchedWord], begin: int, end: int) -> str:
    """Inputs ``begin:end`` as text; a replaced word stands as ``[original>language:translation]``."""
    return "".join(
        f"[{piece.original}>{piece.language}:{piece.translation}]" if isinstance(piece, Replaced) else piece
        for piece in _pieces(data, inputs, words, begin, end)
    )


def _targets(data: PreparedData, inputs: np.ndarray, targets: np.ndarray, word: SwitchedWord) -> str:
    """Each input token from the one before the word to its last, with its target."""
    positions = range(max(word.begin - 1, 0), word.end)
    pairs = [
        f"{_token(data, inputs[p])}->{'none' if targets[p] == IGNORED else _token(data, targets[p])}" for p in positions
    ]
    return "  ".join(pairs)


def _token(data: PreparedData, token: np.int64) -> str:
    """A token in quotes; as bytes where it is a part of a character."""
    raw = data.tokenizer.token_bytes(int(token) % data.recipe.data.tokenizer.vocab_size)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return repr(raw)
    return repr(_text(data, np.array([token])))
