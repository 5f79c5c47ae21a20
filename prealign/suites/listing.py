"""The plan in lines: runs, tokens, time, what is done."""

import statistics
from collections.abc import Iterator

from prealign.suites.execution import is_trained, without_inputs
from prealign.suites.expansion import Plan, Training
from prealign.suites.results import Result, missing_measures, read_result


def plan_lines(plan: Plan) -> Iterator[str]:
    """One line per training and per measurement, notes on text that is not there, then sums. Times are of training
    alone, from the speed of finished runs of the same shape; unknown where there are none."""
    speeds = _speeds(plan)
    used: dict[str, list[str]] = {}
    for (suite, label, _), name in plan.cells.items():
        used.setdefault(name, []).append(f"{suite} '{label}'")
    yield f"{'run':<42} {'tokens':>15} {'time':>9}  state"
    total = left = 0
    seconds: float | None = 0.0
    for training in plan.trainings:
        done = is_trained(training)
        time = seconds_of(training, speeds)
        total += training.tokens
        if not done:
            left += training.tokens
            seconds = None if seconds is None or time is None else seconds + time
        yield f"{training.name:<42} {training.tokens:>15,} {_time(time):>9}  {'trained' if done else 'to train'}"
    yield ""
    for measurement in plan.measurements:
        missing = missing_measures(plan.folder, measurement)
        state = f"to measure: {', '.join(missing)}" if missing else "measured"
        yield f"{measurement.name:<42} {state}; for {', '.join(dict.fromkeys(used[measurement.name]))}"
    for line in dict.fromkeys(without_inputs(plan).values()):
        yield f"note: {line}"
    measured = sum(not missing_measures(plan.folder, measurement) for measurement in plan.measurements)
    cells = len(plan.cells)
    yield ""
    yield (
        f"{cells} cells (row and seed) need {len(plan.measurements)} results ({measured} there) of "
        f"{len(plan.trainings)} trainings; {total:,} tokens, {left:,} of them to train: about {_time(seconds)}"
    )


def seconds_of(training: Training, speeds: dict[str, float]) -> float | None:
    """Estimated training time; None where no run of its shape has finished."""
    speed = speeds.get(_shape(training.recipe.model.model_dump(mode="json"), training.recipe.vocab_size))
    return training.tokens / speed if speed else None


def _speeds(plan: Plan) -> dict[str, float]:
    """Median tokens per second by shape, of the results that the plan has."""
    by_shape: dict[str, list[float]] = {}
    for measurement in plan.measurements:
        result: Result | None = read_result(plan.folder, measurement)
        if result is not None and result["speed"]:
            by_shape.setdefault(_shape(result["model"], result["vocab_size"]), []).append(result["speed"])
    return {shape: statistics.median(found) for shape, found in by_shape.items()}


def _shape(model: dict, vocab_size: int) -> str:
    return f"{model['layers']} x {model['hidden_size']}, {model['context']}, {vocab_size}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
