"""The alignment table as flat arrays of token ids.

A *surface* is one written word of one language: the table's entries come first (surface ``e`` is entry ``e``), then
their translations, each once per language. Every surface has six *forms*, numbered ``2 * case + space``: as it stands,
capitalised (first letter), upper case, each without and with a space before it. Form ``f`` of surface ``s`` is number
``6 * s + f``.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from prealign.lexicon.table import Entry
from prealign.random_streams import mix
from prealign.ranges import ranges
from prealign.text.tokenizer import Tokenizer

FORMS = 6
_EXCHANGED = 32
"""Entries that exchange their translations in a control experiment."""
_ARRAYS = (
    "form_offsets",
    "form_tokens",
    "surface_language",
    "usual_form",
    "counts",
    "translation_offsets",
    "translations",
)


def written_forms(word: str, space_prefix: bool, cased: bool = True) -> list[str]:
    """The six forms of a word; in a language that is written without spaces the forms with a space have none either,
    and without cases all are as the word stands."""
    space = " " if space_prefix else ""
    cases = (word, word[:1].upper() + word[1:], word.upper()) if cased else (word, word, word)
    return [prefix + form for form in cases for prefix in ("", space)]


def compile_table(
    entries: Iterable[Entry],
    tokenizer: Tokenizer,
    languages: list[str],
    space_prefix: dict[str, bool],
    cased: dict[str, bool],
    clone_offsets: dict[str, int],
    folder: Path,
) -> dict[str, int]:
    """Tokenise a table and write its arrays to ``folder``.

    ``languages``: the source language, then the targets. ``clone_offsets``: what turns a source token id into the
    clone's, for target languages that are clones. Returns the facts for the manifest.
    """
    table = list(entries)
    surfaces: dict[tuple[int, str], int] = {}
    usual_case = []
    for number, entry in enumerate(table):
        surfaces[0, entry.word] = number
        usual_case.append(entry.case)
    targets = languages[1:]
    translations: list[int] = []
    offsets = np.zeros(len(table) * len(targets) + 1, dtype=np.int64)
    for number, entry in enumerate(table):
        for column, language in enumerate(targets):
            for translation in entry.translations.get(language, []):
                key = (column + 1, translation)
                if key not in surfaces:
                    surfaces[key] = len(surfaces)
                    # a clone of a word is written as the word is; a dictionary gives its own usual form
                    usual_case.append(entry.case if language in clone_offsets else 0)
                translations.append(surfaces[key])
            offsets[number * len(targets) + column + 1] = len(translations)

    surface_language = np.fromiter((language for language, _ in surfaces), dtype=np.uint8, count=len(surfaces))
    tokens: list[np.ndarray] = []
    for number, word in surfaces:
        name = languages[number]
        shift = clone_offsets.get(name, 0)
        forms = written_forms(word, space_prefix[name], cased[name])
        tokens += [tokenizer.encode(form).astype(np.int64) + shift for form in forms]
    form_offsets = np.concatenate(([0], np.cumsum([len(form) for form in tokens], dtype=np.int64)))
    spaced = np.array([space_prefix[name] for name in languages], dtype=np.int64)[surface_language]
    arrays = {
        "form_offsets": form_offsets,
        "form_tokens": np.concatenate(tokens).astype(np.int32) if tokens else np.empty(0, np.int32),
        "surface_language": surface_language,
        "usual_form": (2 * np.array(usual_case, dtype=np.int64) + spaced).astype(np.uint8),
        "counts": np.array([entry.count for entry in table], dtype=np.int64),
        "translation_offsets": offsets,
        "translations": np.array(translations, dtype=np.int32),
    }
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", arrays[name])
    return {"entries": len(table), "surfaces": len(surfaces), "translations": len(translations)}


class CompiledLexicon:
    """A compiled table in memory: ``E`` entries, ``S`` surfaces, ``T`` targets.

    ``form_offsets`` int64 ``[6 S + 1]``, ``form_tokens`` int32: token ids of form ``f`` are
    ``form_tokens[form_offsets[f]:form_offsets[f+1]]``. ``surface_language`` uint8 ``[S]``: index into ``languages``.
    ``usual_form`` uint8 ``[S]``: which of its six forms a surface is aligned in. ``counts`` int64 ``[E]``:
    occurrences, descending. ``translation_offsets`` int64 ``[E, T, 2]``: range in ``translations``, which are surface
    numbers, int32. On disk the ranges follow one another, so `compile_table` writes their borders alone, ``[E T + 1]``.
    """

    def __init__(self, languages: list[str], arrays: dict[str, np.ndarray]) -> None:
        self.languages = languages
        self.form_offsets = arrays["form_offsets"]
        self.form_tokens = arrays["form_tokens"]
        self.surface_language = arrays["surface_language"]
        self.usual_form = arrays["usual_form"]
        self.counts = arrays["counts"]
        self.translations = arrays["translations"]
        flat = arrays["translation_offsets"]
        shape = (len(self.counts), len(languages) - 1)
        self.translation_offsets = np.stack((flat[:-1].reshape(shape), flat[1:].reshape(shape)), axis=2)

    @classmethod
    def load(cls, folder: Path, languages: list[str]) -> "CompiledLexicon":
        """Read the arrays that `compile_table` wrote."""
        return cls(languages, {name: np.load(folder / f"{name}.npy") for name in _ARRAYS})

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def form_lengths(self) -> np.ndarray:
        """Tokens per form, ``[6 S]``."""
        return np.diff(self.form_offsets)

    def tokens_of(self, forms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of forms, given by their numbers ``[n]``, one form after the other (int32); tokens of each, int64
        ``[n]``."""
        begin = self.form_offsets[forms]
        lengths = self.form_offsets[forms + 1] - begin
        return self.form_tokens[ranges(begin, lengths)], lengths

    def restrict(self, top_fraction: float, permute_seed: int | None) -> "CompiledLexicon":
        """The most frequent share of the entries; with a seed, each entry takes the translations of another that is
        about as frequent and as long in tokens.

        Left-out entries keep their numbers and lose their translations, so code-switch maps stay valid.
        """
        kept = max(1, round(top_fraction * len(self))) if len(self) else 0
        offsets = self.translation_offsets.copy()
        if permute_seed is not None:
            offsets[:kept] = self.translation_offsets[self._partners(kept, permute_seed)]
        offsets[kept:] = 0
        restricted = object.__new__(CompiledLexicon)
        restricted.__dict__ = self.__dict__ | {"translation_offsets": offsets}
        return restricted

    def _partners(self, kept: int, seed: int) -> np.ndarray:
        """Another entry for each of the first ``kept`` (at least two), int64: in the order of the tokens of the usual
        form and then of the count, entries are exchanged in a circle with neighbours, so none keeps its own."""
        entries = np.arange(kept)
        lengths = self.form_lengths[entries * FORMS + self.usual_form[:kept]]
        near = np.lexsort((entries, lengths))  # entries are in the order of their counts
        circles = np.arange(kept) // _EXCHANGED
        circles[circles == circles[-1]] -= int(kept % _EXCHANGED == 1 and kept > 1)  # none is alone
        order = near[np.lexsort((mix(seed, near), circles))]
        following = np.roll(order, -1)
        begins = np.flatnonzero(np.diff(circles, prepend=-1))
        following[np.append(begins[1:], kept) - 1] = order[begins]
        partners = np.empty(kept, np.int64)
        partners[order] = following
        return partners
