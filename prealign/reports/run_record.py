"""What a run folder says while the run trains, or after it."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from prealign.config import Recipe, load_recipe
from prealign.config.stage import STAGES
from prealign.distributed.weights import read_state
from prealign.errors import UserError
from prealign.files import json_rows

Row = dict[str, Any]

_ROWS = 20_000
"""Above so many rows, every second one of training goes: what a page costs stays the same however long a run is."""


@dataclass
class RunRecord:
    """A run folder. `refresh` reads what was added to its metrics since the last time."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    """Of ``metrics.jsonl``, in order; of a long run not all of training's."""
    _read: tuple[int, int] = (0, 0)
    """The file (inode) that ``rows`` are from, and how many of its bytes."""

    @classmethod
    def of(cls, folder: Path) -> "RunRecord":
        """Of a folder that must be a run's; raises `UserError`."""
        if not (folder / "recipe.yaml").is_file():
            raise UserError(f"{folder / 'recipe.yaml'}: no such file; expected the folder of a run")
        record = cls(folder)
        record.refresh()
        return record

    def refresh(self) -> None:
        """Take in the rows that are new; all of them where the file is another one, as after going back."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as file:
            inode, begin = path.stat().st_ino, self._read[1]
            if inode != self._read[0] or path.stat().st_size < begin:
                self.rows, begin = [], 0
            file.seek(begin)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]  # the last line may be under way
        for line in whole.splitlines():
            self.rows += json_rows(line.decode("utf-8", "replace"))
            if len(self.rows) > _ROWS:
                self.rows = _half(self.rows)
        self._read = (inode, begin + len(whole))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run's last start."""
        return load_recipe(str(self.folder / "recipe.yaml"))

    def of_kind(self, kind: str, name: str = "") -> list[Row]:
        """Rows of a kind (train, eval) that have a name."""
        return [row for row in self.rows if row["kind"] == kind and (not name or name in row)]

    @property
    def starts(self) -> list[Row]:
        """Of ``starts.jsonl``: every start of a stage; empty for runs that did not write it."""
        path = self.folder / "starts.jsonl"
        return json_rows(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []

    @property
    def anomalies(self) -> list[Row]:
        """Records of ``STAGE/anomalies``, with their stage, in order."""
        found = []
        for stage in STAGES:
            records = [_json(path) for path in (self.folder / stage / "anomalies").glob("step-*.json")]
            known = [record for record in records if record is not None]
            found += [record | {"stage": stage} for record in sorted(known, key=lambda record: record["step"])]
        return found

    @property
    def evaluations(self) -> list[Row]:
        """What `launchers/evaluate.py` has written, the newest last."""
        paths = sorted((self.folder / "evaluation").glob("*step-*.json"), key=lambda path: path.stat().st_mtime)
        return [record for record in map(_json, paths) if record is not None and "metrics" in record]

    @property
    def finished(self) -> bool:
        """Whether every stage has its weights."""
        return all(read_state(self.folder / stage / "weights") is not None for stage in self.recipe.stages)


def _half(rows: list[Row]) -> list[Row]:
    """Every evaluation, and every second row of training; the last one is among them."""
    trained = sum(row["kind"] == "train" for row in rows)
    kept, number = [], 0
    for row in rows:
        number += row["kind"] == "train"
        if row["kind"] != "train" or (trained - number) % 2 == 0:
            kept.append(row)
    return kept


def _json(path: Path) -> Row | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
