"""Every reply that was paid for, in an append-only file.

A line is one reply: ``{"model", "prompts": {language: identity}, "tokens": [input, output], "words": {word: {language:
[translation, ...]}}}``. It is on the disk before its words count as translated. The file holds replies to any models
and prompts; a word is known when the same model has answered the same prompt for that word and language.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.errors import UserError

Words = dict[str, dict[str, list[str]]]
"""word -> language -> translations"""


class Cache:
    """The replies of one model to one prompt per language; holds the file's lock until `close`.

    Raises `UserError` where another process translates into the same file, or the file cannot be written.
    """

    def __init__(self, path: Path, model: str, prompts: dict[str, str], read_only: bool = False) -> None:
        self.path = path
        self.model = model
        self.prompts = prompts
        self.known: Words = {}
        self.input_tokens = 0
        self.output_tokens = 0
        self.damaged_lines = 0
        self._file: int | None = None
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                self._lock()
                self._mend_end()
                _sync_folder(path.parent)
            if path.is_file():
                for record in self._records():
                    self._learn(record)
        except OSError as error:
            raise self._unusable(error) from None

    def add(self, words: Words, input_tokens: int, output_tokens: int) -> None:
        """Append one reply and wait until it is on the disk."""
        assert self._file is not None
        record = {"model": self.model, "prompts": self.prompts, "tokens": [input_tokens, output_tokens], "words": words}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise self._unusable(error) from None
        self._learn(record)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UserError(f"{self.path}: another translation is writing here; wait for it to end") from None

    def _mend_end(self) -> None:
        """A process that was killed, or a full disk, may have left a part of a line: cut it off."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        end = size
        while end and os.pread(self._file, 1, end - 1) != b"\n":
            step = min(end, 1 << 16)
            newline = os.pread(self._file, step, end - step).rfind(b"\n")
            end = end - step + newline + 1 if newline >= 0 else end - step
        if end < size:
            os.ftruncate(self._file, end)
            os.fsync(self._file)

    def _records(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written at this moment, by another process
                try:
                    record = json.loads(line)
                    sum(record["tokens"]), record["model"], record["prompts"].items(), record["words"].items()
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.damaged_lines += 1
                    continue
                yield record

    def _learn(self, record: dict[str, Any]) -> None:
        asked = record["prompts"]
        languages = [code for code, identity in self.prompts.items() if asked.get(code) == identity]
        if record["model"] != self.model or not languages:
            return
        self.input_tokens += record["tokens"][0]
        self.output_tokens += record["tokens"][1]
        for word, translations in record["words"].items():
            for language in languages:
                if language in translations:
                    self.known.setdefault(word, {})[language] = translations[language]

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot be written ({error.strerror or error}); free space or mend rights")


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file last, as its content does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
