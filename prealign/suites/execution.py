"""Run a plan: what is not prepared, trained or measured yet, one command after another."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prealign.config import load_recipe
from prealign.distributed.weights import read_state
from prealign.errors import UserError
from prealign.files import locked
from prealign.suites.expansion import Measurement, Plan, Training
from prealign.suites.inputs import is_prepared, missing_inputs
from prealign.suites.launching import Failed, Processes, default_launcher
from prealign.suites.results import missing_measures, result_path, write_result


@dataclass
class Outcome:
    """What became of a plan's measurements, by name."""

    finished: list[str] = field(default_factory=list)
    """In this call."""
    failed: dict[str, str] = field(default_factory=dict)
    """With the last line of what failed."""
    not_started: list[str] = field(default_factory=list)
    """For want of time."""


def execute(plan: Plan, processes: Processes, max_minutes: float | None, say: Callable[[str], None]) -> Outcome:
    """Bring every measurement of a plan to its result. A failure leaves others alone; after ``max_minutes`` no new run
    starts. Raises `prealign.errors.Interrupted`."""
    outcome = Outcome()
    began = time.monotonic()
    executor = _Executor(plan, processes, say)
    for measurement in plan.measurements:
        if not missing_measures(plan.folder, measurement):
            continue
        if max_minutes is not None and time.monotonic() - began >= 60 * max_minutes:
            outcome.not_started.append(measurement.name)
            continue
        try:
            executor.bring(measurement)
            outcome.finished.append(measurement.name)
        except (Failed, UserError) as error:
            outcome.failed[measurement.name] = str(error)
            say(f"failed: {measurement.name}: {error}")
    return outcome


def work_on(plan: Plan, launcher: str | None, launchers: Path, max_minutes: float | None) -> Outcome:
    """`execute` with processes that ``launcher`` starts (None: the usual one) from the folder ``launchers``, saying on
    the terminal what it does. Raises `UserError`, before anything starts where nothing can be trained for want of text
    or dictionaries, and `prealign.errors.Interrupted`."""
    absent = without_inputs(plan)
    if absent and absent.keys() == {each.name for each in plan.measurements if missing_measures(plan.folder, each)}:
        raise UserError(next(iter(absent.values())))
    for line in dict.fromkeys(absent.values()):
        print(f"note: {line}", flush=True)
    chosen = launcher if launcher is not None else default_launcher()
    with claimed(plan.folder), Processes(chosen, launchers) as processes:
        return execute(plan, processes, max_minutes, lambda line: print(line, flush=True))


def leave(outcome: Outcome, max_minutes: float | None) -> None:
    """Say what is missing, and end with exit code 1 where something failed."""
    if outcome.not_started:
        print(f"not started within {max_minutes:g} minutes: {', '.join(outcome.not_started)}")
    for name, line in outcome.failed.items():
        print(f"failed: {name}: {line}", file=sys.stderr)
    if outcome.failed:
        sys.exit(1)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other calls out of ``RESULTS/SCALE`` while this one works there. Raises `UserError`."""
    taken = f"{folder}: another launcher is at work there; wait for it, or choose another --results"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, taken))
        except OSError as error:
            raise UserError(
                f"--results: '{folder}' cannot be written ({error.strerror}); choose another folder"
            ) from None
        yield


def is_trained(training: Training) -> bool:
    """Whether a training has written its weights."""
    return read_state(training.recipe.folder / training.recipe.stages[0] / "weights") is not None


def without_inputs(plan: Plan) -> dict[str, str]:
    """Measurements that need data which is not prepared and cannot be, by name, with the line that says what is
    missing."""
    known: dict[str, str | None] = {}
    absent: dict[str, str] = {}
    for measurement in plan.measurements:
        if not missing_measures(plan.folder, measurement):
            continue
        for training in measurement.training.chain:
            if is_trained(training):
                continue
            data = _data_of(training)
            if data not in known:
                line = missing_inputs(training.recipe)
                known[data] = None if line is None or is_prepared(training.recipe) else line
            if (line := known[data]) is not None:
                absent.setdefault(measurement.name, line)
    return absent


class _Executor:
    """The state of one call: what is prepared, what has failed."""

    def __init__(self, plan: Plan, processes: Processes, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._processes = processes
        self._say = say
        self._prepared: set[str] = set()
        self._failed: dict[str, str] = {}

    def bring(self, measurement: Measurement) -> None:
        """Prepare, train and measure, as far as it is not done. Raises `Failed`, `UserError`."""
        training = measurement.training
        for needed in training.chain:
            self._once(needed.name, partial(self._train, needed))
        taken = missing_measures(self._plan.folder, measurement)
        self._say(f"measure {measurement.name}: {', '.join(taken)}")
        arguments = ["--run", str(training.recipe.folder), "--only", ",".join(taken), *measurement.overrides]
        self._processes.run("evaluate.py", arguments, self._log(measurement.name))
        commands = [command for needed in training.chain for command in self._commands(needed)]
        commands.append(self._processes.command("evaluate.py", arguments))
        write_result(self._plan.folder, measurement, taken, commands)
        self._say(f"written: {result_path(self._plan.folder, measurement)}")

    def _train(self, training: Training) -> None:
        if is_trained(training) and self._settings_stand(training):
            return
        data = _data_of(training)
        if data not in self._prepared:
            self._once(data, lambda: self._prepare(training, data))
        if training.start is not None and not (training.start.export / "config.json").is_file():
            self._processes.run("export.py", _export(training.start), self._log(training.name), distributed=False)
        self._say(f"train   {training.name}: {training.tokens:,} tokens of text")
        self._processes.run("pretrain.py", _arguments(training), self._log(training.name))

    def _prepare(self, training: Training, data: str) -> None:
        line = missing_inputs(training.recipe)
        if line is not None and not is_prepared(training.recipe):
            raise UserError(line)
        if line is not None:
            self._say(f"note: {data} stays as it was prepared, as text or dictionaries are not there any more")
            self._prepared.add(data)
            return
        self._say(f"prepare {data}")
        self._processes.run("prepare.py", _arguments(training), self._log(training.name), distributed=False)
        self._prepared.add(data)

    def _settings_stand(self, training: Training) -> bool:
        """Whether the run folder's recipe is measured as this one; `launchers/pretrain.py` brings it up to date."""
        path = training.recipe.folder / "recipe.yaml"
        return path.is_file() and load_recipe(str(path)).evaluation == training.recipe.evaluation

    def _once(self, name: str, do: Callable[[], None]) -> None:
        """What has failed in this call is not tried again for another run that needs it; ``name``: a run, or data."""
        if name in self._failed:
            raise Failed(f"needs {name}, which has failed: {self._failed[name]}")
        try:
            do()
        except (Failed, UserError) as error:
            self._failed[name] = str(error)
            raise

    def _commands(self, training: Training) -> list[list[str]]:
        commands = [self._processes.command("prepare.py", _arguments(training), distributed=False)]
        if training.start is not None and training.after is None:
            commands.append(self._processes.command("export.py", _export(training.start), distributed=False))
        return [*commands, self._processes.command("pretrain.py", _arguments(training))]

    def _log(self, name: str) -> Path:
        return self._plan.folder / "logs" / f"{name}.log"


def _data_of(training: Training) -> str:
    """What must be prepared for a training, in words."""
    return f"{training.recipe.data.dir}{'' if training.recipe.facts is None else ' with facts'}"


def _export(training: Training) -> list[str]:
    return ["--run", str(training.recipe.folder), "--out", str(training.export)]


def _arguments(training: Training) -> list[str]:
    return ["--config", training.config, *training.overrides]
