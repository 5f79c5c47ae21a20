"""Names of artificial entities, made of syllables."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from prealign.random_streams import mix, permute

_ONSETS = ["b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "k", "kl"]
_ONSETS += ["l", "m", "n", "p", "pr", "r", "s", "t", "tr", "v", "z"]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ei"]
_CODAS = ["", "n", "r", "l", "s", "k"]
_SYLLABLES = len(_ONSETS) * len(_VOWELS) * len(_CODAS)
_ENDINGS = 8
"""Last syllables that the names of one type share, so that types can be told apart."""
_SAMPLE = 2000
"""Names that decide which number of tokens is the usual one."""

TWO_WORDS = frozenset({"person"})
"""Types with a given name and a family name."""


class Names:
    """Draws names by type: no word is used twice, and names of one type have equally many tokens.

    ``tokens``: the number of tokens of a name inside a sentence. ``avoid``: words in lower case that no name contains.
    What is drawn depends on the seed and on the order of calls for each type alone.
    """

    def __init__(self, seed: int, tokens: Callable[[str], int], avoid: set[str]) -> None:
        self._seed = seed
        self._tokens = tokens
        self._used = set(avoid)
        self._streams: dict[str, Iterator[str]] = {}

    def draw(self, kind: str) -> str:
        """The next name of a type."""
        if kind not in self._streams:
            self._streams[kind] = self._names(kind)
        return next(self._streams[kind])

    def _names(self, kind: str) -> Iterator[str]:
        sizes = Counter(self._tokens(_name(self._seed, kind, number)) for number in range(_SAMPLE))
        usual = max(sizes, key=lambda size: (sizes[size], -size))
        for number in count():
            name = _name(self._seed, kind, number)
            words = {word.lower() for word in name.split()}
            if self._tokens(name) == usual and not words & self._used:
                self._used |= words
                yield name


def _name(seed: int, kind: str, number: int) -> str:
    """The ``number``-th candidate of a type: syllables are the digits of a permuted number."""
    key = int(mix(seed, zlib.crc32(kind.encode())))
    size = _SYLLABLES**2 * _ENDINGS * (_SYLLABLES**2 if kind in TWO_WORDS else 1)
    rest = int(permute(np.array([number]), size, key)[0])
    endings = permute(np.arange(_ENDINGS), _SYLLABLES, zlib.crc32(kind.encode()))
    rest, ending = divmod(rest, _ENDINGS)
    rest, first = divmod(rest, _SYLLABLES)
    rest, second = divmod(rest, _SYLLABLES)
    word = _syllable(first) + _syllable(second) + _syllable(int(endings[ending]))
    if kind in TWO_WORDS:
        other, one = divmod(rest, _SYLLABLES)
        return f"{(_syllable(one) + _syllable(other)).capitalize()} {word.capitalize()}"
    return word.capitalize()


def _syllable(number: int) -> str:
    rest, coda = divmod(number, len(_CODAS))
    onset, vowel = divmod(rest, len(_VOWELS))
    return _ONSETS[onset] + _VOWELS[vowel] + _CODAS[coda]
