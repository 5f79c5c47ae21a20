"""From an entry of ``languages.*.dictionaries`` to pairs of words, whatever the file's format."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from prealign.config.texts import DictionaryConfig
from prealign.errors import UserError
from prealign.lexicon.dictionaries import cedict, dictd, ding, json_tables, stardict, tei, wiktextract, word_list
from prealign.lexicon.dictionaries.opening import BAD_LINE, text_lines
from prealign.text.encoding import COMPRESSED

_SUFFIXES = {
    ".index": "dictd",
    ".dict": "dictd",
    ".ifo": "stardict",
    ".tei": "tei",
    ".xml": "tei",
    ".ding": "ding",
    ".u8": "cedict",
    ".tsv": "tsv",
}
_INVERTED = {"ding", "cedict"}
_FIRST_LINES = 50


class Pair(NamedTuple):
    """A translation as a dictionary writes it."""

    language: str
    """Target language, by its name in the recipe."""
    source: str
    translation: str
    rank: int
    """0 for what the dictionary names first; `BAD_LINE` for a line that is not as the format has it."""


def dictionary_files(dictionary: DictionaryConfig) -> list[Path]:
    """All files of a dictionary. Raises `UserError` when one is missing or its format cannot be told."""
    path = Path(dictionary.path)
    if path.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"{path}: found a pickle (word2word writes those); a pickle can run code when it is read; expected its "
            "table exported as JSON (word -> translations) or TSV"
        )
    parts = {"dictd": dictd.dictd_files, "stardict": stardict.stardict_files}
    by_name = dictionary.format if dictionary.format != "auto" else _by_suffix(path)
    files = parts[by_name](path) if by_name in parts else [path]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"languages.*.dictionaries: no such file '{file}'; expected a dictionary ('{path}'; "
                "launchers/translate.py writes one to data.dir/llm)"
            )
    return files


def read_dictionary(
    dictionary: DictionaryConfig, source_codes: list[str], targets: dict[str, list[str]]
) -> Iterator[Pair]:
    """The pairs of a dictionary, in its order.

    ``targets``: the languages it is read for, with what the file may call them; a file that names no languages gives
    each of its pairs to all of them. Raises `UserError` for what cannot be read, and for a file without a pair.
    """
    path = Path(dictionary.path)
    form = detect_format(dictionary)
    inverted = form in _INVERTED if dictionary.inverted is None else dictionary.inverted
    by_code = {code: name for name, codes in targets.items() for code in codes}
    found, bad = 0, ""
    for code, source, translation, rank in _rows(path, form, dictionary, source_codes, set(by_code)):
        found += translation != ""
        if rank == BAD_LINE:
            bad = bad or source
        elif inverted:
            source, translation = translation, source
        for name in targets if code == "" else [by_code[code]] if code in by_code else []:
            yield Pair(name, source, translation, rank)
    if found == 0:
        shown = f" (but {bad!r})" if bad else ""
        raise UserError(f"{path}: found no pair of words in it{shown}; expected a dictionary of format '{form}'")


def _rows(
    path: Path, form: str, dictionary: DictionaryConfig, source_codes: list[str], codes: set[str]
) -> Iterator[tuple[str, str, str, int]]:
    """(code, headword, translation, rank); the code is empty for files of one language."""
    match form:
        case "wiktextract":
            return wiktextract.read_wiktextract(path, source_codes, codes)
        case "json":
            return json_tables.read_json(path, source_codes, codes)
        case "jsonl":
            return json_tables.read_json_lines(path, source_codes, codes)
        case "dictd":
            rows = dictd.read_dictd(path)
        case "stardict":
            rows = stardict.read_stardict(path)
        case "tei":
            rows = tei.read_tei(path)
        case "ding":
            rows = ding.read_ding(path)
        case "cedict":
            rows = cedict.read_cedict(path, dictionary.traditional)
        case _:
            rows = word_list.read_word_list(path, {*source_codes, *codes}, tabs_only=form == "tsv")
    return (("", *row) for row in rows)


def detect_format(dictionary: DictionaryConfig) -> str:
    """The format that the recipe names, else by the file's name, else by its first lines."""
    path = Path(dictionary.path)
    if dictionary.format != "auto":
        return dictionary.format
    if known := _by_suffix(path):
        return known
    lines = [line for _, line in islice(text_lines(path), _FIRST_LINES) if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: found no line of text; expected a dictionary")
    if lines[0].lstrip()[0] in "{[":
        return "wiktextract" if any('"lang_code"' in line for line in lines) else _json_format(lines)
    if cedict.LINE.match(lines[0]):
        return "cedict"
    return "ding" if all(" :: " in line for line in lines) else "muse"


def _by_suffix(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _json_format(lines: list[str]) -> str:
    """Of the first lines of a file that starts with a bracket."""
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        return "json"  # a value over several lines
    if isinstance(first, dict) and "lang_code" in first:
        return "wiktextract"
    return "jsonl" if len(lines) > 1 or json_tables.is_record(first) else "json"
