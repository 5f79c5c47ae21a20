"""What all measurements share: the reason why one is not taken, intervals, and the file of a step's results."""

import json
import math
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.files import write_atomically

FORMAT_VERSION = 1
_Z95 = 1.959963984540054


class NotMeasured(Exception):  # noqa: N818 - nothing went wrong
    """A measurement does not apply to this run; the message says why."""


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927); ``(0, 1)`` without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z95 * _Z95
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # the ends are exact where nothing, or everything, was hit
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == trials else middle + half)


def results_path(folder: Path, stage: str, step: int, split: str = "test") -> Path:
    """``step-N.json`` for the pretrain stage, ``align-step-N.json`` for the other, in ``folder``; with ``-dev``
    behind the number where it was not measured on the test text."""
    before, after = "" if stage == "pretrain" else f"{stage}-", "" if split == "test" else f"-{split}"
    return folder / f"{before}step-{step}{after}.json"


def write_results(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a step's record, whole or not at all; returns what was written.

    Measurements that the file already has for the same weights (``identity``) stay where ``record`` has none of that
    name. Raises `UserError` where the file cannot be written.
    """
    old: dict[str, Any] = {}
    if path.is_file():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            old = {}
    record = {"format": FORMAT_VERSION} | record
    if old.get("format") == FORMAT_VERSION and old.get("identity") == record["identity"]:
        record["metrics"] = old["metrics"] | record["metrics"]
    try:
        content = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except ValueError:
        raise UserError(
            f"{record.get('weights')}: its model gives values that are not finite; expected numbers; the training has "
            f"diverged: evaluate an earlier step"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free space, mend rights or choose another --out"
        ) from None
    return record
