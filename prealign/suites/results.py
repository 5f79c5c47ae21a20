"""A result: everything that a page says of one measured run, in one file, written whole or not at all."""

import json
import math
import platform
import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from prealign.artefacts import open_artefact
from prealign.config import Recipe
from prealign.config.evaluation import EvaluationConfig
from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.processes import cores
from prealign.reports.runs import Run, read_run
from prealign.suites.expansion import Measurement, Training

FORMAT_VERSION = 1
Result = dict[str, Any]


def result_path(folder: Path, measurement: Measurement) -> Path:
    """``RESULTS/SCALE/NAME.json``."""
    return folder / f"{measurement.name}.json"


def read_result(folder: Path, measurement: Measurement) -> Result | None:
    """What was measured under the same settings; None where there is nothing. Raises `UserError` for a damaged file."""
    path = result_path(folder, measurement)
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        usable = result["format"] == FORMAT_VERSION and _same(result["settings"], measurement.settings)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a result file; move it away and start again") from None
    return result if usable else None


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether settings are equal; a key that an older program did not have stands for its default."""
    try:
        known = EvaluationConfig.model_validate(old["evaluation"]).model_dump(
            mode="json", include=set(new["evaluation"])
        )
    except ValidationError:
        return False
    return old | {"evaluation": known} == new


def missing_measures(folder: Path, measurement: Measurement) -> list[str]:
    """Measures that the result does not have yet."""
    result = read_result(folder, measurement)
    return [name for name in measurement.measures if result is None or name not in result["metrics"]]


def write_result(folder: Path, measurement: Measurement, taken: list[str], commands: list[list[str]]) -> None:
    """Write the result from the run's folder and the evaluation that has just been made of it.

    ``taken``: the measures that this evaluation took; others stay as an earlier result of the same weights has
    them, and so do the commands. Raises `UserError`.
    """
    training = measurement.training
    run = read_run(str(training.recipe.folder))
    if training.after is not None:  # the align stage is part of the run, wherever it was trained
        run = replace(run, rows=[*read_run(str(training.after.recipe.folder)).rows, *run.rows])
    evaluation, account = _evaluation(training), _account(training, run)
    earlier = read_result(folder, measurement)
    if earlier is None or earlier["weights"] != evaluation["identity"]:
        earlier = {"metrics": {}, "commands": []}
    lines = [shlex.join(command) for command in commands]
    result = {
        "format": FORMAT_VERSION,
        "run": measurement.name,
        "variant": measurement.variant,
        "seed": measurement.seed,
        "recipe": training.config,
        "differences": list(training.changes),
        "settings": measurement.settings,
        "model": training.recipe.model.model_dump(mode="json"),
        "vocab_size": training.recipe.vocab_size,
        "tokens_per_step": training.recipe.batch.global_batch_size * training.recipe.model.context,
        "account": account,
        "speed": speed_of(run),
        "curves": _curves(run, account["tokens"] - run.account.tokens, account["steps"] - run.account.steps),
        "metrics": earlier["metrics"] | {name: evaluation["metrics"][name] for name in taken},
        "commands": [*dict.fromkeys([*earlier["commands"], *lines])],
        "weights": evaluation["identity"],
        "ranks": evaluation["ranks"],
        "device": device_name(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "deepspeed": version("deepspeed"),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = result_path(folder, measurement)
    try:
        write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or mend rights") from None


def _account(training: Training, run: Run) -> dict[str, Any]:
    """What the run has consumed, and the one whose weights it starts from."""
    account: dict[str, Any] = {
        "text": run.account.text,
        "available": _available(training.recipe),
        "targets": run.account.targets,
        "words": run.account.words,
        "tokens": run.account.tokens,
        "steps": run.account.steps,
        "align_steps": run.align_steps,
        "flops": run.flops,
    }
    if training.start is None:
        return account
    first = read_run(str(training.start.recipe.folder))
    spent = first.account
    for key, before in (("text", spent.text), ("targets", spent.targets), ("words", spent.words)):
        account[key] = {name: tokens + before.get(name, 0) for name, tokens in account[key].items()}
    return account | {
        "tokens": account["tokens"] + spent.tokens,
        "steps": account["steps"] + spent.steps,
        "flops": account["flops"] + first.flops,
    }


def speed_of(run: Run) -> float | None:
    """Tokens per second of the pretrain stage: the median of what it logged."""
    logged = sorted(
        row["tokens_per_second"] for row in run.rows if row["kind"] == "train" and row["stage"] == "pretrain"
    )
    return logged[len(logged) // 2] if logged else None


def device_name() -> str:
    """The accelerator, or the CPU with its number of cores."""
    if torch.cuda.is_available():
        # in a process of its own: asking opens a context, whose memory the runs to come would lack
        ask = "import torch; print(torch.cuda.get_device_name(0))"
        name = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()
        return f"{torch.cuda.device_count()} x {name or 'GPU'}"
    return f"CPU, {cores()} cores ({platform.processor() or platform.machine()})"


def _evaluation(training: Training) -> dict[str, Any]:
    folder = training.recipe.folder / "evaluation"
    files = sorted(folder.glob("step-*.json"), key=lambda path: int(path.stem.removeprefix("step-")))
    if not files:
        raise UserError(f"{folder}: found no step-N.json; expected what launchers/evaluate.py writes")
    return json.loads(files[-1].read_text(encoding="utf-8"))


def _available(recipe: Recipe) -> dict[str, int]:
    """Tokens of each language's training text, of which a run that reads more reads some again. Empty where the data is
    not there any more."""
    folders = {name: recipe.data.dir / name for name in recipe.languages}
    if not all(folder.is_dir() for folder in folders.values()):
        return {}
    return {name: open_artefact(folder, "token store").facts["train_tokens"] for name, folder in folders.items()}


def _curves(run: Run, tokens_before: int, steps_before: int) -> list[dict[str, Any]]:
    """Evaluations while training: steps (align stage included) and tokens, after those of the run on whose weights it
    starts, perplexity per language, mean cosine over layers of aligned words and of random pairs."""
    points = []
    for row in run.evaluations:
        point = {"tokens": tokens_before + row["tokens"], "step": steps_before + row["step"]}
        if row["stage"] == "pretrain":
            point["step"] += run.align_steps
        point |= {key: value for key, value in row.items() if key.startswith("perplexity/")}
        for name, key in (("cosine", "probe_cosine_layers"), ("random_cosine", "probe_random_cosine_layers")):
            if key in row:
                point[name] = sum(row[key]) / len(row[key])
        points.append({key: value for key, value in point.items() if math.isfinite(value)})
    return points
