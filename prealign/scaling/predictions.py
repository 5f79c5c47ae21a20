"""Predictions of the largest size in a file with a date, written before it is trained, and read afterwards."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prealign import __version__
from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.scaling.fitting import DRAWS
from prealign.scaling.forms import CHINCHILLA, Law
from prealign.scaling.measured import LadderRun, Measured
from prealign.scaling.study import LanguageStudy, Tested

FORMAT_VERSION = 1
FILE = "predictions.json"


@dataclass(frozen=True)
class Prediction:
    """The loss of one run by one form, in nats a token."""

    run: str
    """Its name."""
    label: str
    language: str
    form: str
    loss: float
    low: float
    """95 % for a new run, ``low`` to ``high``."""
    high: float


@dataclass(frozen=True)
class Predictions:
    """What was predicted, and when."""

    date: str
    """ISO 8601, UTC."""
    held_out: str
    fitted_to: list[str]
    """Names of the runs."""
    predictions: list[Prediction]


def predict(measured: Measured, path: Path, draws: int = DRAWS) -> Predictions:
    """Fit every form to the sizes below the largest, and write what they say of it. Raises `UserError` where a run of
    the largest is measured already, and where there are too few of the others."""
    held_out = measured.held_out
    known = [run for run in measured.finished if run.size == held_out]
    if known:
        raise UserError(
            f"--predict: found {len(known)} measured runs of {held_out}; expected none, as a prediction is written "
            f"before; the page shows what the smaller sizes would have said"
        )
    smaller = [run for run in measured.finished if run.size != held_out]
    _expect_enough(measured, smaller)
    found: list[Prediction] = []
    for language in [*measured.targets, measured.source]:
        for tested in LanguageStudy(measured, language, draws).tests():
            found += of_test(tested, language)
    if not found:
        raise UserError(
            f"--predict: no form can be fitted to the {len(smaller)} measured runs below {held_out}; expected three "
            f"sizes and three budgets or more; train more of the ladder"
        )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    made = Predictions(date, held_out, [run.name for run in smaller], found)
    _write(made, path)
    return made


def of_test(tested: Tested, language: str) -> list[Prediction]:
    """A form's predictions of the largest size, run by run."""
    rows = zip(tested.runs, tested.predicted.tolist(), tested.low.tolist(), tested.high.tolist())
    return [Prediction(run.name, run.label, language, tested.form.name, *losses) for run, *losses in rows]


def read_predictions(path: Path) -> Predictions | None:
    """Those of a file; None where there is none. Raises `UserError` for a damaged one."""
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = [Prediction(**row) for row in values["predictions"]]
        if values["format"] != FORMAT_VERSION:
            raise ValueError
        return Predictions(values["date"], values["held_out"], values["fitted_to"], rows)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a file of predictions; move it away") from None


def _write(made: Predictions, path: Path) -> None:
    rows = [vars(prediction) for prediction in made.predictions]
    values = {"format": FORMAT_VERSION, "version": __version__} | vars(made) | {"predictions": rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or mend rights") from None


def _expect_enough(measured: Measured, smaller: list[LadderRun]) -> None:
    """At least one more run of every method than the smallest form has parameters."""
    needed = len(Law(CHINCHILLA, measured.methods, 1.0, 1.0).names) + 1
    for method in measured.methods:
        count = sum(run.method == method for run in smaller)
        if count < needed:
            sizes = " ".join(list(measured.ladder.sizes)[:-1])
            raise UserError(
                f"--predict: found {count} measured runs of {method} below {measured.held_out}; expected {needed} or "
                f"more, for a law of {needed - 1} parameters; train them first: --sizes {sizes}"
            )
