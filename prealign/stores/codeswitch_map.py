"""Code-switch index map: for every word of a store, which lexicon entry it is and how it is written.

``NAME.cs``: header (magic, uint64 version, words, item size), then one little-endian unsigned integer of two to four
bytes a word, in the order of the word map: 0 for a word that is not in the table, else ``8 * entry + writing + 1``.
Writings 0 to 5 are the forms of `prealign.lexicon.compiled`. 6 and 7, without and with a space before it: a word that
is usually written with capitals and is so here, where no sentence starts ("I", "London", "TV"). Its capitals are its
own, and a translation is written as itself is; the capitals of all others ("The") come from their place, and the
translation takes them over. Three bytes reach for 2.1 million entries, so that word map and code-switch map take at
most 3.3 bytes a token even where every token is a word. Built from store, word map, lexicon and tokenizer.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prealign.errors import UserError
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.processes import ordered_map
from prealign.stores.header import read_header
from prealign.stores.sentences import LOOK_BACK, start_sentences
from prealign.stores.shards import find_shards, joined, release
from prealign.stores.spans import chunks, span_keys, words_of_chunk
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap

_MAGIC = b"PACSMAP\x00"
_HEADER = struct.Struct("<8sQQQ")
MAP_VERSION = 2
WRITINGS = 8
"""Values of an entry."""
OWN_CAPITALS = 6
"""Writing of a word whose capitals are its own; one more with a space before it."""


def build_codeswitch_map(
    path: Path, store: TokenStore, words: WordMap, lexicon: CompiledLexicon, marks: np.ndarray
) -> dict[str, int]:
    """Write the map, chunks of the store in parallel; returns how many words there are and how many are in the
    table. ``marks``: as `prealign.stores.sentences.sentence_marks` gives them."""
    count = WRITINGS * len(lexicon)
    itemsize = 2 if count < 2**16 else 3 if count < 2**24 else 4
    matched = 0
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, MAP_VERSION, words.words, itemsize))
        for packed, known in ordered_map(_FindChunk.of(store, words, lexicon, itemsize, marks), chunks(store)):
            file.write(packed)
            matched += known
    return {"words": words.words, "in_table": matched}


@dataclass(frozen=True)
class _FindChunk:
    """Map entries of the words of one chunk of the store."""

    store: TokenStore
    words: WordMap
    lexicon: CompiledLexicon
    itemsize: int
    of_token: np.ndarray
    """Form number + 1 of a word that is one token, by the token."""
    keys: np.ndarray
    """Keys of the longer forms, ascending, and their form numbers + 1."""
    entries: np.ndarray
    marks: np.ndarray

    @classmethod
    def of(
        cls, store: TokenStore, words: WordMap, lexicon: CompiledLexicon, itemsize: int, marks: np.ndarray
    ) -> "_FindChunk":
        count = FORMS * len(lexicon)
        begin, end = lexicon.form_offsets[:count], lexicon.form_offsets[1 : count + 1]
        # equal spellings: the first form, so "I" is capitalised
        keys, first = np.unique(span_keys(lexicon.form_tokens, begin, end), return_index=True)
        entries = (first + 1).astype(np.uint32)
        longest = np.iinfo(np.uint16).max if store.dtype.itemsize < 4 else lexicon.form_tokens.max(initial=0)
        of_token = np.zeros(int(longest) + 2, np.uint32)
        single = keys <= longest + 1
        of_token[keys[single].astype(np.int64) - 1] = entries[single]
        return cls(store, words, lexicon, itemsize, of_token, keys[~single], entries[~single], marks)

    def __call__(self, chunk: tuple[int, int]) -> tuple[bytes, int]:
        tokens, starts, ends, _ = words_of_chunk(self.store, self.words, *chunk)
        forms = self.of_token.take(tokens[starts], mode="clip")
        longer = np.flatnonzero(ends - starts > 1)
        forms[longer] = self._find(tokens, starts[longer], ends[longer])
        known = np.flatnonzero(forms)
        forms[known] = self._written(forms[known].astype(np.int64) - 1, tokens, starts[known], chunk[0])
        packed = forms.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)[:, : self.itemsize].tobytes()
        return packed, len(known)

    def _written(self, form: np.ndarray, tokens: np.ndarray, starts: np.ndarray, begin: int) -> np.ndarray:
        """Values of the map for words of known forms, which start at ``starts`` of a chunk's tokens."""
        entry, writing = np.divmod(form, FORMS)
        own = np.flatnonzero((writing >= 2) & (writing // 2 == self.lexicon.usual_form[entry] // 2))
        capital = writing[own] // 2 == 1  # a word in upper case starts a sentence in upper case too
        first = max(begin - LOOK_BACK, 0)
        around = np.concatenate((self.store.tokens[first:begin], tokens))
        own = own[~(capital & start_sentences(around, starts[own] + (begin - first), self.marks))]
        writing[own] = OWN_CAPITALS + writing[own] % 2
        return WRITINGS * entry + writing + 1

    def _find(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        if not len(self.keys):
            return np.zeros(len(starts), np.uint32)
        wanted, inverse = np.unique(span_keys(tokens, starts, ends), return_inverse=True)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        forms = np.where(self.keys[place] == wanted, self.entries[place], np.uint32(0))[inverse]
        _check_equal(self.lexicon, forms, tokens, starts, ends)
        return forms


def _check_equal(
    lexicon: CompiledLexicon, forms: np.ndarray, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> None:
    """Turn matches whose tokens differ (two spans with one hash) into 0, in place."""
    hit = np.flatnonzero(forms)
    form = forms[hit].astype(np.int64)
    begin = lexicon.form_offsets[form - 1]
    lengths = lexicon.form_offsets[form] - begin
    equal = lengths == ends[hit] - starts[hit]
    for place in range(int(lengths.max(initial=0))):
        inside = np.flatnonzero(equal & (place < lengths))
        same = tokens[starts[hit[inside]] + place] == lexicon.form_tokens[begin[inside] + place]
        equal[inside] &= same
    forms[hit[~equal]] = 0


def forms_of(values: np.ndarray, lexicon: CompiledLexicon) -> np.ndarray:
    """Form numbers of words of the table, by their values in a map (int64, above 0)."""
    entry, writing = np.divmod(values - 1, WRITINGS)
    return FORMS * entry + np.where(
        writing >= OWN_CAPITALS, 2 * (lexicon.usual_form[entry] // 2) + writing % 2, writing
    )


class CodeSwitchMap:
    """A map opened for reading, its shards as one; memory-mapped. ``words``: how many it shall have."""

    def __init__(self, path: Path, words: int) -> None:
        files = [_open(part) for part in find_shards(path.with_suffix(""), path.suffix)]
        count = sum(words_of_file for words_of_file, _, _ in files)
        if count != words:
            raise UserError(f"{path}: found {count} words, expected {words} by the store; run launchers/prepare.py")
        itemsizes = {itemsize for _, itemsize, _ in files}
        if len(itemsizes) > 1:
            raise UserError(f"{path}: found shards with entries of {sorted(itemsizes)} bytes; prepare it again")
        self._words, self._itemsize = count, files[0][1]
        self._parts = [entries for _, _, entries in files]
        self._bytes = joined(self._parts)

    def release(self) -> None:
        """Give back the memory of entries that were read (`prealign.stores.shards.release`)."""
        for part in self._parts:
            release(part)

    def read(self, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The map's values of the words ``first[i] : first[i] + counts[i]``, one range after the other.

        Word numbers run on from the last to the first, as the ring of the store does. Returns uint16 or uint32.
        """
        parts = []
        for begin, count in zip(first.tolist(), counts.tolist()):
            while count > 0:
                begin %= self._words
                end = min(begin + count, self._words)
                parts.append(self._bytes[begin * self._itemsize : end * self._itemsize])
                begin, count = end, count - (end - begin)
        if self._itemsize != 3:
            return np.concatenate([self._bytes[:0], *parts]).view(f"<u{self._itemsize}")
        # four bytes at every third, of which the last belongs to the next entry
        packed = np.concatenate([*parts, np.zeros(1, np.uint8)])
        overlapping = np.ndarray((len(packed) // 3,), "<u4", packed.data, strides=(3,))
        return overlapping & np.uint32(0xFFFFFF)


def _open(path: Path) -> tuple[int, int, np.ndarray]:
    """Words, bytes an entry, and the entries of one file."""
    fields, size = read_header(path, _HEADER, _MAGIC, "code-switch map", "code-switch map header")
    version, count, itemsize = fields
    if version != MAP_VERSION or itemsize not in (2, 3, 4) or size != _HEADER.size + count * itemsize:
        raise UserError(f"{path}: found version {version}, {size} bytes for {count} words; prepare it again")
    size = count * itemsize
    entries = np.asarray(np.memmap(path, np.uint8, "r", _HEADER.size, (size,))) if count else np.empty(0, "u1")
    return count, itemsize, entries
