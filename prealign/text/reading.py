"""Documents out of files and hub datasets, through `datasets`; undecodable bytes are replaced and counted, or
refused."""

import codecs
import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prealign.config.texts import Text
from prealign.errors import UserError
from prealign.text.encoding import refuse_file_of_other_encoding

_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text", ".text": "text"}
_COMPRESSED = {".gz", ".xz", ".zst", ".bz2"}
_SAMPLE_BY = {"blank_line": "paragraph", "line": "line", "file": "document"}


@dataclass
class ReadCounts:
    """What the reader met."""

    documents: int = 0
    empty: int = 0
    invalid_utf8: int = 0
    """Undecodable byte sequences that were replaced by U+FFFD."""
    files: list[str] = field(default_factory=list)


def text_files(text: Text, key: str) -> list[Path]:
    """The files of a local text source, sorted; ``key`` names the recipe's key in errors."""
    paths: set[str] = set()
    for pattern in text.files:
        if Path(pattern).is_file():  # a name, whatever characters it has
            paths.add(pattern)
            continue
        found = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        if not found:
            raise UserError(f"{key}.files: no file matches '{pattern}' (working directory {Path.cwd()}); mend the path")
        paths.update(found)
    return [Path(path) for path in sorted(paths)]


def read_documents(text: Text, key: str, invalid_utf8: str, counts: ReadCounts) -> Iterator[str]:
    """Yield the non-empty documents of a text source in a fixed order, updating ``counts``.

    ``invalid_utf8`` is ``replace`` or ``refuse``. Raises `UserError` for missing files, unreadable content, a missing
    column and (when refused) undecodable bytes.
    """
    decoder = _Decoder(invalid_utf8, counts)
    for name, rows in _sources(text, key, decoder):
        counts.files.append(name)
        decoder.source = name
        for number, raw in enumerate(rows):
            if text.max_documents is not None and counts.documents >= text.max_documents:
                return
            document = decoder.decode(raw)
            if number == 0:
                document = document.removeprefix("\ufeff")  # the byte order mark of the file
            if document.strip():
                counts.documents += 1
                yield document
            else:
                counts.empty += 1


class _Decoder:
    """Decodes bytes; registered under its own name as codec error handler, so that it counts what it replaces."""

    def __init__(self, invalid_utf8: str, counts: ReadCounts) -> None:
        self.refuse = invalid_utf8 == "refuse"
        self.counts = counts
        self.source = ""
        self.handler = f"prealign-{id(self)}"
        codecs.register_error(self.handler, self._handle)

    def _handle(self, error: UnicodeError) -> tuple[str, int]:
        if self.refuse or not isinstance(error, UnicodeDecodeError):
            raise error
        self.counts.invalid_utf8 += 1
        return "\ufffd", error.end

    def decode(self, raw: bytes | str | None) -> str:
        if raw is None or isinstance(raw, str):
            return raw or ""
        try:
            return raw.decode("utf-8", errors=self.handler)
        except UnicodeDecodeError as error:
            raise self.user_error(error) from None

    def user_error(self, error: UnicodeDecodeError) -> UserError:
        found = error.object[error.start : error.end]
        return UserError(
            f"{self.source}: found bytes {found!r} that are not UTF-8; expected UTF-8; "
            "mend the file or set data.invalid_utf8=replace"
        )


def _sources(text: Text, key: str, decoder: _Decoder) -> Iterator[tuple[str, Iterator[bytes | None]]]:
    """(name, rows) for each file or for the hub dataset; a row is the document's bytes."""
    if text.hub is not None:
        options = {"name": text.hub_name, "revision": text.hub_revision, "split": text.hub_split}
        yield text.hub, _rows(text.hub, f"{key}.hub: {text.hub}", options, text, key, decoder)
        return
    for path in text_files(text, key):
        builder = _builder(path, text, key)
        if builder != "parquet":
            refuse_file_of_other_encoding(path)
        # datasets takes names for patterns
        options: dict[str, Any] = {"data_files": [glob.escape(str(path))], "split": "train"}
        if builder == "text":
            options |= {"sample_by": _SAMPLE_BY[text.documents], "encoding_errors": decoder.handler}
        yield str(path), _rows(builder, str(path), options, text, key, decoder)


def _builder(path: Path, text: Text, key: str) -> str:
    if text.format != "auto":
        return {"jsonl": "json"}.get(text.format, text.format)
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
    if suffixes and suffixes[-1] in _FORMATS:
        return _FORMATS[suffixes[-1]]
    raise UserError(
        f"{key}.files: cannot tell the format of '{path}' by its name; expected one of {sorted(_FORMATS)} "
        f"or set {key}.format"
    )


def _rows(
    builder: str, name: str, options: dict[str, Any], text: Text, key: str, decoder: _Decoder
) -> Iterator[bytes | None]:
    import datasets
    import pyarrow

    try:
        dataset = datasets.load_dataset(builder, streaming=True, **options).with_format("arrow")
        for table in dataset.iter(batch_size=256):
            if text.field not in table.column_names:
                raise UserError(f"{name}: found columns {table.column_names}; expected '{text.field}' ({key}.field)")
            column = table[text.field]
            if pyarrow.types.is_null(column.type):
                continue
            if not pyarrow.types.is_string(column.type) and not pyarrow.types.is_large_string(column.type):
                raise UserError(f"{name}: column '{text.field}' holds {column.type}; expected text ({key}.field)")
            yield from column.cast(pyarrow.large_binary()).to_pylist()
    except UnicodeDecodeError as error:
        raise decoder.user_error(error) from None
    except (ValueError, OSError, EOFError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0][:300] or type(error).__name__
        raise UserError(f"{name}: cannot be read by datasets ({builder}): {reason}; mend or remove it") from None
