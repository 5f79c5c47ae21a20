"""Documents of one file, by its format, and of a hub dataset. Of jsonl and parquet only the field that is asked for is
looked at, so other columns may hold whatever they like."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from prealign.config.texts import TextConfig
from prealign.errors import UserError
from prealign.text.decoding import Decoder
from prealign.text.encoding import DAMAGED, open_uncompressed, refuse_other_encodings

_MARK = "\ufeff"
_HEAD = 512
"""Bytes that tell another encoding, or a compressed file."""
_SHOWN = 60
"""Characters of a bad line that its error shows."""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A text file, uncompressed, which is not UTF-16 or UTF-32; what cannot be read becomes a `UserError`."""
    try:
        with open_uncompressed(path) as raw:
            file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[type-var]
            refuse_other_encodings(file.peek(_HEAD)[:_HEAD], str(path))
            yield file
    except DAMAGED as error:
        raise UserError(f"{path}: found damaged compressed data ({error}); expected a whole file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); mend or remove it") from None


def jsonl_documents(path: Path, text: TextConfig, key: str, decoder: Decoder) -> Iterator[str]:
    """One object a line, or one array of objects."""
    found: list[str] | None = None
    known = False
    with _opened(path) as file:
        for number, row in _json_rows(path, file, decoder):
            where = f"{path}, line {number}"
            if not isinstance(row, dict):
                raise UserError(
                    f"{where}: found {_shown(json.dumps(row))}; expected an object with '{text.field}' in it"
                )
            value, there = _value(row, text.field)
            known, found = known or there, found or list(row)
            if value is not None and not isinstance(value, str):
                kind = type(value).__name__
                raise UserError(f"{where}: '{text.field}' holds {kind}; expected text ({key}.field)")
            decoder.counts.missing_field += not there
            yield decoder.without_lone_surrogates(value or "", where)
    if found is not None and not known:
        raise UserError(f"{path}: found columns {found}; expected '{text.field}' ({key}.field)")


def _json_rows(path: Path, file: BinaryIO, decoder: Decoder) -> Iterator[tuple[int, Any]]:
    """(line, value) of the JSON values of a file; those of an array are all on its first line."""
    begun = False
    for number, raw in enumerate(file, start=1):
        line = decoder.decode(raw, f"{path}, line {number}")
        if number == 1:
            line = line.removeprefix(_MARK)
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            line = line + decoder.decode(file.read(), str(path))
            rows = _parsed(line, f"{path}")
            yield from ((number, row) for row in rows)
            return
        begun = True
        yield number, _parsed(line, f"{path}, line {number}")


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(
        f"{where}: not JSON ({reason}): {_shown(line)}; expected one object a line; mend or remove the line"
    )


def _value(row: dict[str, Any], name: str) -> tuple[Any, bool]:
    """A field's value, and whether it is there; ``meta.text`` is also ``text`` inside ``meta``."""
    if name in row:
        return row[name], True
    outer, dot, inner = name.partition(".")
    if dot and isinstance(row.get(outer), dict):
        return _value(row[outer], inner)
    return None, False


def _shown(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")


def text_documents(path: Path, text: TextConfig, key: str, decoder: Decoder) -> Iterator[str]:
    """A document a file, a line, or between blank lines."""
    with _opened(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", errors=decoder.handler)
        try:
            first = lines.readline()
            if not first:
                return
            every = chain([first.removeprefix(_MARK)], lines)
            if text.documents == "file":
                yield "".join(every)
            elif text.documents == "line":
                yield from (line.removesuffix("\n") for line in every)
            else:
                yield from _between_blank_lines(every)
        except UnicodeDecodeError as error:
            raise decoder.user_error(error, str(path)) from None
        finally:
            lines.detach()


def _between_blank_lines(lines: Iterator[str]) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        if line.strip():
            document.append(line)
        elif document:
            yield "".join(document).removesuffix("\n")
            document = []
    if document:
        yield "".join(document).removesuffix("\n")


def parquet_documents(path: Path, text: TextConfig, key: str, decoder: Decoder) -> Iterator[str]:
    """A row a document."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.stat().st_size == 0:
            return
        with pyarrow.parquet.ParquetFile(path) as file:
            if text.field not in file.schema_arrow.names and not _has_column(file.schema_arrow, text.field):
                raise UserError(
                    f"{path}: found columns {file.schema_arrow.names}; expected '{text.field}' ({key}.field)"
                )
            if file.schema_arrow.names.count(text.field) > 1:
                raise UserError(
                    f"{path}: found {file.schema_arrow.names.count(text.field)} columns '{text.field}'; expected one"
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[text.field]):
                for value in _texts(batch, text.field, str(path), key):
                    number += 1
                    yield decoder.decode(value or b"", f"{path}, row {number}").removeprefix(
                        _MARK if number == 1 else ""
                    )
    except (OSError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:300]
        raise UserError(f"{path}: cannot be read ({reason}); mend or remove it") from None


def _has_column(schema: Any, name: str) -> bool:
    import pyarrow

    outer, dot, inner = name.partition(".")
    if not dot or outer not in schema.names or not pyarrow.types.is_struct(schema.field(outer).type):
        return False
    fields = {field.name: field for field in schema.field(outer).type}
    return inner in fields or _has_column(pyarrow.schema(list(fields.values())), inner)


def _texts(batch: Any, name: str, where: str, key: str) -> list[bytes | None]:
    """The rows of a column of an Arrow batch (or of a field inside structs) as bytes."""
    import pyarrow
    import pyarrow.compute

    if name in batch.schema.names:
        column = batch.column(name)
    else:
        outer, _, inner = name.partition(".")
        column = pyarrow.compute.struct_field(batch.column(outer), inner.split("."))
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_null(column.type):
        return [None] * len(column)
    if column.type not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise UserError(f"{where}: column '{name}' holds {column.type}; expected text ({key}.field)")
    return column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()


def hub_documents(text: TextConfig, key: str, decoder: Decoder) -> Iterator[str]:
    """Rows of a dataset of the hub, streamed through `datasets`."""
    import datasets
    import pyarrow

    name = str(text.hub)
    options = {"name": text.hub_name, "revision": text.hub_revision, "split": text.hub_split}
    try:
        dataset = datasets.load_dataset(name, streaming=True, **options).with_format("arrow")
        number = 0
        for table in dataset.iter(batch_size=256):
            if text.field not in table.column_names and not _has_column(table.schema, text.field):
                raise UserError(f"{name}: found columns {table.column_names}; expected '{text.field}' ({key}.field)")
            for value in _texts(table.combine_chunks(), text.field, name, key):
                number += 1
                yield decoder.decode(value or b"", f"{name}, row {number}")
    except (ValueError, OSError, EOFError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0][:300] or type(error).__name__
        raise UserError(
            f"{key}.hub: {name}: cannot be read by datasets: {reason}; mend the recipe or try again"
        ) from None


READERS: dict[str, Callable[[Path, TextConfig, str, Decoder], Iterator[str]]] = {
    "jsonl": jsonl_documents,
    "parquet": parquet_documents,
    "text": text_documents,
}
"""By `text.format`."""
