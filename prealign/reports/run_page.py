"""A run's page, ``RUN/report/index.html``: one file, without requests; written while the run trains, and by
`launchers/report.py`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prealign.data.inspecting import Sample, first_samples
from prealign.data.prepared import PreparedData
from prealign.distributed.world import World
from prealign.errors import Interrupted, UserError
from prealign.evaluation.table import rows as table_rows
from prealign.files import write_atomically
from prealign.reports.pages import Table, render
from prealign.reports.run_charts import alignment_charts, loss_charts, working_charts
from prealign.reports.run_record import Row, RunRecord
from prealign.training.stage import Hook, StageRun
from prealign.training.step import StepSums

_SAMPLES = 4
_EXCERPT = 160
"""Characters of an anomaly's worst sample."""
_SHARE = 0.01
"""Of the time that training may spend on its page."""


@dataclass(frozen=True)
class DataNotes:
    """What a page says of the prepared data."""

    coverage: Table
    """Empty where the recipe has no table of translations."""
    samples: list[Sample]
    missing: str = ""
    """Why there is nothing."""

    @classmethod
    def of(cls, data: PreparedData) -> "DataNotes":
        """Coverage of the table, and samples with the words that are switched."""
        path = data.recipe.data.dir / "coverage" / "coverage.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return cls(_coverage(report) if report is not None else [], first_samples(data, _SAMPLES))


class RunPage:
    """Writes a run's page while it trains, on the first rank; a page that fails is a warning, after which there are no
    more."""

    def __init__(self, folder: Path, data: PreparedData, say: Callable[[str], None]) -> None:
        """``folder``: the run's. ``say`` gets a warning."""
        self._record = RunRecord(folder)
        self._data = data
        self._notes: DataNotes | None = None
        self._say = say
        self._on = True
        self._next = 0.0

    def write_if_due(self, training: StageRun, sums: StepSums) -> None:
        """A hook of `StageRun`: writes after evaluations and checkpoints, but for no more than a hundredth of the
        time."""
        progress = training.progress
        if training.world.is_first and training.step in (progress.evaluated, progress.saved):
            self.write(wait=False)

    def write(self, wait: bool = True) -> None:
        """Write the page; without ``wait``, only if the time has come."""
        began = time.monotonic()
        if not self._on or (not wait and began < self._next):
            return
        try:
            if self._notes is None:
                self._notes = DataNotes.of(self._data)
            self._record.refresh()
            write_run_page(self._record, self._notes)
        except Exception as error:  # whatever it is, the run goes on
            self._on = False
            self._say(f"warning: {self._record.folder / 'report'}: {error}; no page is written; training goes on")
        ended = time.monotonic()
        self._next = ended + (ended - began) / _SHARE


@contextmanager
def run_page(folder: Path, data: PreparedData, world: World, say: Callable[[str], None]) -> Iterator[Hook]:
    """The hook that writes a run's page while it trains; once more at its end, or when it is interrupted."""
    page = RunPage(folder, data, say)
    try:
        yield page.write_if_due
    except Interrupted:
        if world.is_first:
            page.write()
        raise
    if world.is_first:
        page.write()


def write_run_page(record: RunRecord, notes: DataNotes) -> Path:
    """Write ``report/index.html`` of a run; returns its path. Raises `UserError` and `OSError`."""
    path = record.folder / "report" / "index.html"
    recipe = record.recipe
    evaluations = record.evaluations
    examples = [(of["step"], text) for of in evaluations for text in _generated(of)]
    page = render(
        "run",
        title=recipe.name,
        summary=_summary(record),
        state=_state(record),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        latest=_latest(record),
        losses=loss_charts(record),
        alignment=alignment_charts(record),
        working=working_charts(record),
        notes=notes,
        starts=_starts(record),
        anomalies=_anomalies(record),
        measured=_measured(evaluations),
        examples=examples[-8:],
        recipe=(record.folder / "recipe.yaml").read_text(encoding="utf-8"),
    )
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, page)
    return path


def write_page_of(folder: Path, open_data: Callable[[], PreparedData]) -> Path:
    """Write the page of a run that is not training here; what needs the prepared data is left out where that cannot be
    opened. Raises `UserError`."""
    record = RunRecord.of(folder)
    try:
        notes = DataNotes.of(open_data())
    except UserError as error:
        notes = DataNotes([], [], str(error))
    try:
        return write_run_page(record, notes)
    except OSError as error:
        raise UserError(
            f"{folder / 'report'}: cannot be written ({error.strerror}); mend its rights, or free space"
        ) from None


def _summary(record: RunRecord) -> str:
    recipe = record.recipe
    model, tokens = recipe.model, recipe.batch.global_batch_size * recipe.model.context
    return (
        f"{model.layers} layers x {model.hidden_size}, context {model.context}, vocabulary {recipe.vocab_size:,}, "
        f"{tokens:,} tokens a step of pretraining; languages {', '.join(recipe.languages)}; seed {recipe.seed}."
    )


def _state(record: RunRecord) -> str:
    if record.finished:
        return "Finished."
    if not record.rows:
        return "Nothing is logged yet."
    last = record.rows[-1]
    steps = [start["steps"] for start in record.starts if start["stage"] == last["stage"]]
    of = f" of {steps[-1]:,}" if steps else ""
    return f"Not finished: {last['stage']}, step {last['step']:,}{of}."


def _latest(record: RunRecord) -> Table:
    """What the last evaluation and the last row of training say."""
    rows: Table = [["now", ""]]
    for evaluation in record.of_kind("eval")[-1:]:
        for language in record.recipe.languages:
            if f"perplexity/{language}" in evaluation:
                rows.append([f"{language}: perplexity", f"{evaluation[f'perplexity/{language}']:,.2f}"])
                rows.append([f"{language}: bits per byte", f"{evaluation[f'bits_per_byte/{language}']:.3f}"])
    for row in record.rows[-1:]:
        rows.append(["tokens", f"{row['tokens']:,}"])
        if "tflop" in row:
            rows.append(["TFLOP", f"{row['tflop']:,.1f}"])
    for row in record.of_kind("train")[-1:]:
        rows.append(["tokens a second", f"{row['tokens_per_second']:,.0f}"])
        rows.append(["waiting for data", f"{row['data_wait']:.1%}"])
        if "peak_memory_gb" in row:
            rows.append(["peak memory", f"{row['peak_memory_gb']:.2f} GB"])
    return rows if len(rows) > 1 else []


def _starts(record: RunRecord) -> Table:
    rows = [["start", "stage", "after step", "ranks", "device", "attention", "torch.compile"]]
    for start in record.starts:
        rows.append([start["time"][:16].replace("T", " "), start["stage"], f"{start['step']:,}", str(start["ranks"])])
        compiled = {None: "", True: "yes", False: "no"}[start.get("compiled")]  # runs of before noted neither
        rows[-1] += [start["device"], start.get("attention", ""), compiled]
    return rows if len(rows) > 1 else []


def _anomalies(record: RunRecord) -> Table:
    rows = [["step", "what", "answer", "loss", "its worst sample"]]
    for of in record.anomalies:
        worst = next((sample for sample in of["samples"] if "text" in sample), None)
        shown = f"{worst['language']}: {worst['text'][:_EXCERPT]}..." if worst is not None else ""
        loss = of["loss"] if isinstance(of["loss"], str) else f"{of['loss']:.4g}"
        rows.append([f"{of['stage']} {of['step']}", of["kind"], of["action"], loss, shown])
    return rows if len(rows) > 1 else []


def _measured(evaluations: list[Row]) -> dict[str, Any]:
    """The newest results of `launchers/evaluate.py`."""
    if not evaluations:
        return {}
    newest = evaluations[-1]
    table = [["measured", "of", "value", ""], *(list(row) for row in table_rows(newest["metrics"]))]
    return {"title": f"{newest['stage']} {newest['step']}, {newest['split']} text", "table": table}


def _generated(evaluation: Row) -> list[str]:
    """Continuations that an evaluation kept."""
    return [example["text"] for example in evaluation["metrics"].get("leakage", {}).get("examples", [])]


def _coverage(report: dict[str, Any]) -> Table:
    """Of ``coverage.json``, by language."""
    rows = [["language", "words", "of words", "of text", "per word", "most frequent words without"]]
    for name, of in report["languages"].items():
        missing = ", ".join(of["uncovered"][:8]) or "-"
        shares = [f"{of['types']:,}", f"{of['types_share']:.1%}", f"{of['tokens_share']:.1%}"]
        rows.append([name, *shares, f"{of['translations_per_word']:.2f}", missing])
    return rows
