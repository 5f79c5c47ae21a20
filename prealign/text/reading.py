"""Documents out of local files and of datasets of the Hugging Face hub; undecodable text is replaced and counted, or
refused."""

import glob
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prealign.config.loading import CONFIGS, in_configs
from prealign.config.texts import TextConfig
from prealign.errors import UserError
from prealign.text.decoding import Decoder
from prealign.text.encoding import COMPRESSED
from prealign.text.formats import READERS, hub_documents

_FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "text", ".text": "text"}


@dataclass
class ReadCounts:
    """What the reader met."""

    documents: int = 0
    empty: int = 0
    """Documents without text in them."""
    invalid_utf8: int = 0
    """Undecodable byte sequences, and halves of surrogate pairs, that were replaced by U+FFFD."""
    missing_field: int = 0
    """Rows that do not have the field with the text."""
    normalized: int = 0
    """Documents that Unicode normalisation changed."""
    empty_files: list[str] = field(default_factory=list)
    """Files without any document, not even an empty one."""


def text_files(text: TextConfig, key: str) -> list[Path]:
    """The files of a local text source, sorted; ``key`` names the recipe's key in errors."""
    paths: set[str] = set()
    for pattern in text.files:
        if Path(pattern).is_file():  # a name, whatever characters it has
            paths.add(pattern)
            continue
        if Path(pattern).is_dir():
            raise UserError(
                f"{key}.files: '{pattern}' is a folder; expected a file or a pattern, as '{pattern}/*.jsonl'"
            )
        matching = [Path(path) for path in glob.glob(pattern, recursive=True)]  # noqa: PTH207
        for path in matching:
            if not path.exists():
                raise UserError(f"{key}.files: '{path}' is a link to a file that is not there; mend or remove it")
        if not matching and (ours := in_configs(pattern)) is not None:
            pattern_of_ours = f"{glob.escape(str(CONFIGS))}/{ours.relative_to(CONFIGS)}"
            matching = [Path(path) for path in glob.glob(pattern_of_ours, recursive=True)]  # noqa: PTH207
        found = [str(path) for path in matching if path.is_file()]
        if not found:
            raise UserError(f"{key}.files: no file matches '{pattern}' (working directory {Path.cwd()}); mend the path")
        paths.update(found)
    return [Path(path) for path in sorted(paths)]


def read_documents(text: TextConfig, key: str, invalid_utf8: str, counts: ReadCounts) -> Iterator[str]:
    """Yield the non-empty documents of a text source in a fixed order, updating ``counts``.

    ``invalid_utf8`` is ``replace`` or ``refuse``. Raises `UserError` for missing files, unreadable content, a missing
    column and (when refused) undecodable text.
    """
    for name, documents in _sources(text, key, Decoder(invalid_utf8 == "refuse", counts)):
        rows = 0
        for rows, document in enumerate(documents, start=1):  # noqa: B007 - counted
            if text.max_documents is not None and counts.documents >= text.max_documents:
                return
            if document.strip():
                counts.documents += 1
                yield _normalized(document, text.normalize, counts)
            else:
                counts.empty += 1
        if rows == 0:
            counts.empty_files.append(name)


_FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}


def _normalized(document: str, form: str, counts: ReadCounts) -> str:
    if form == "none" or unicodedata.is_normalized(_FORMS[form], document):
        return document
    counts.normalized += 1
    return unicodedata.normalize(_FORMS[form], document)


def _sources(text: TextConfig, key: str, decoder: Decoder) -> Iterator[tuple[str, Iterator[str]]]:
    """(name, documents) for each file, or for the hub dataset."""
    if text.hub is not None:
        yield text.hub, hub_documents(text, key, decoder)
        return
    for path in text_files(text, key):
        yield str(path), READERS[_format(path, text, key)](path, text, key, decoder)


def _format(path: Path, text: TextConfig, key: str) -> str:
    if text.format != "auto":
        return text.format
    suffixes = [suffix for suffix in map(str.lower, path.suffixes) if suffix not in COMPRESSED]
    if suffixes and suffixes[-1] in _FORMATS:
        return _FORMATS[suffixes[-1]]
    raise UserError(
        f"{key}.files: cannot tell the format of '{path}' by its name; expected one of {sorted(_FORMATS)} "
        f"or set {key}.format"
    )
