"""What all measurements share: the reason why one is not taken, intervals, and the file of a step's results."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from prealign.corpus.artefact import write_atomically
from prealign.errors import UserError

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


_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)
_T95 += (2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
"""Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom."""


def _t95(freedom: int) -> float:
    """Two-sided 95 % point of Student's t, right to 0.0005."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    # the first terms of the expansion around the normal quantile (Abramowitz and Stegun 1964, 26.7.5)
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: list[float]) -> tuple[float, float] | None:
    """95 % interval of a mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


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
