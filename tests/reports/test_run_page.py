"""A run's page: what it shows, that it asks nothing of anybody, and that it cannot disturb a run."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prealign.config import Recipe
from prealign.config.loading import dump_recipe
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import Interrupted, UserError
from prealign.reports import run_page as module
from prealign.reports.run_page import DataNotes, RunPage, run_page, write_page_of, write_run_page
from prealign.reports.run_record import RunRecord
from tests.conftest import tiny_recipe
from tests.processes import finish, start, train_arguments

HOSTILE = "<script>alert(1)</script>"


def row(kind: str, stage: str, step: int, **values: Any) -> dict[str, Any]:
    tokens = step * 512 + (5120 if stage == "pretrain" else 0)
    return {"kind": kind, "stage": stage, "step": step, "tokens": tokens, "tflop": tokens / 1e6} | values


def rows() -> list[dict[str, Any]]:
    found = []
    for stage in ("align", "pretrain"):
        for step in range(0, 11, 5):
            layers = {"probe_cosine_layers": [0.1, 0.2, 0.3, 0.4], "probe_random_cosine_layers": [0.0, 0.1, 0.1, 0.1]}
            perplexity = {f"perplexity/{name}": 600.0 - step for name in ("en", "clone")}
            bits = {f"bits_per_byte/{name}": 2.0 for name in ("en", "clone")}
            found.append(row("eval", stage, step, **perplexity, **bits, **layers))
        for step in range(1, 11):
            loss = {"lm_loss": 6.0, "lm_loss/en": 6.0 - step / 10, "switch_ratio": 0.2, "learning_rate": 1e-3}
            work = {"tokens_per_second": 1234.0, "data_wait": 0.01, "peak_memory_gb": 0.5, "gradient_norm": 1.0}
            found.append(row("train", stage, step, **loss, **work))
    return found


@pytest.fixture
def folder(recipe: Recipe, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "pretrain" / "anomalies").mkdir(parents=True)
    (folder / "evaluation").mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(recipe.model_copy(update={"name": "a <b> run"})))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    begun = {"stage": "pretrain", "step": 0, "steps": 90, "time": "2026-01-02T03:04:05+00:00", "ranks": 2}
    starts = [begun | {"device": "a CPU"}, begun | {"step": 7, "ranks": 4, "device": "a CPU", "compiled": True}]
    (folder / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    sample = {"sample": 3, "language": "en", "epoch": 0, "window": 3, "nats": "nan", "text": HOSTILE}
    anomaly = {"step": 8, "kind": "loss not finite", "action": "skip", "loss": "nan", "samples": [sample]}
    (folder / "pretrain" / "anomalies" / "step-8.json").write_text(json.dumps(anomaly))
    leaked = {"clone": {}, "examples": [{"sample": 1, "text": "He saw the [clone:house] " + HOSTILE}]}
    record = {
        "stage": "pretrain",
        "step": 10,
        "split": "test",
        "metrics": {"leakage": leaked | {"skipped": "not here"}},
    }
    (folder / "evaluation" / "step-10.json").write_text(json.dumps(record))
    return folder


class Page(HTMLParser):
    """Tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_run_and_asks_nothing_of_anybody(folder: Path, data_dir: Path, recipe: Recipe) -> None:
    text = write_page_of(folder, lambda: open_data(recipe)).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("svg") == 12  # no alignment loss was logged
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "srcset"} & {name for name, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    for expected in (
        "a <b> run", "Not finished: pretrain, step 10 of 90.", "590.00", "1,234", "2026-01-02 03:04", "loss not finite",
        f"en: {HOSTILE}", f"He saw the [clone:house] {HOSTILE}", "codeswitch.ratio", "Generated",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert page.tags.count("mark") >= 5
    assert "words with a translation replaced" in page.text
    assert "100.0%" in page.text  # of a clone's table


def test_without_data_the_rest_is_there(folder: Path) -> None:
    def moved() -> PreparedData:
        raise UserError("data.dir: it has gone")

    page = Page(write_page_of(folder, moved).read_text(encoding="utf-8"))
    assert "Samples and coverage are left out: data.dir: it has gone" in page.text
    assert page.tags.count("svg") == 12


def test_a_run_that_has_logged_nothing_has_a_page(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    record = RunRecord.of(tmp_path)
    assert "Nothing is logged yet." in write_run_page(record, DataNotes([], [])).read_text(encoding="utf-8")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a run"):
        RunRecord.of(tmp_path)


def test_rows_are_read_once(folder: Path) -> None:
    metrics = folder / "metrics.jsonl"
    record = RunRecord.of(folder)
    before = list(record.rows)
    line = json.dumps(row("train", "pretrain", 11, lm_loss=5.0)) + "\n"
    with metrics.open("a") as file:
        file.write(line[:10])
        file.flush()
        record.refresh()
        assert record.rows == before  # half a line is none
        file.write(line[10:])
    record.refresh()
    assert record.rows == [*before, json.loads(line)]
    replaced = folder / "other"
    replaced.write_text(line)
    replaced.replace(metrics)  # as a run does that goes back
    record.refresh()
    assert record.rows == [json.loads(line)]


def test_long_runs_cost_no_more_than_others(folder: Path) -> None:
    record = RunRecord.of(folder)
    small = len(write_run_page(record, DataNotes([], [])).read_text())
    trained = {"lm_loss/en": 5.0, "data_wait": 0.1, "tokens_per_second": 1.0}
    layers = {"probe_cosine_layers": [0.5] * 4, "probe_random_cosine_layers": [0.1] * 4, "perplexity/en": 9.0}
    evaluated = layers | {"bits_per_byte/en": 2.0}
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(11, 50_012):
            file.write(json.dumps(row("train", "pretrain", step, **trained)) + "\n")
            if step % 100 == 0:
                file.write(json.dumps(row("eval", "pretrain", step, **evaluated)) + "\n")
    record.refresh()
    assert 10_000 < len(record.rows) <= 20_000
    assert len(record.of_kind("eval")) == 6 + 500
    assert record.of_kind("train")[-1]["step"] == 50_011
    assert len(write_run_page(record, DataNotes([], [])).read_text()) < 6 * small


def test_a_page_that_fails_is_one_warning(folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: RunRecord, notes: DataNotes) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(module, "write_run_page", full)
    said: list[str] = []
    page = RunPage(folder, open_data(recipe), said.append)
    page.write()
    page.write()
    assert len(said) == 1
    assert said[0].endswith("no space left; no page is written; training goes on")


def test_pages_take_a_hundredth_of_the_time(folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(record: RunRecord, notes: DataNotes) -> Path:
        nonlocal now
        now += 2.0
        written.append(now)
        return folder

    written: list[float] = []
    monkeypatch.setattr(module, "write_run_page", slow)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    page = RunPage(folder, open_data(recipe), pytest.fail)
    while now < 1000:
        page.write(wait=False)
        now += 1.0
    assert 4 <= len(written) <= 6
    page.write()
    assert len(written) <= 7  # at the end in any case
    assert written[-1] == now


def test_an_interrupted_run_has_its_page(folder: Path, recipe: Recipe) -> None:
    class World:
        is_first = True

    with (
        pytest.raises(Interrupted),
        run_page(folder, open_data(recipe), World(), pytest.fail),  # type: ignore[arg-type]
    ):
        raise Interrupted
    assert (folder / "report" / "index.html").is_file()


def test_a_run_writes_its_page(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir, checkpoint={"every": 4})
    arguments = train_arguments(recipe, tmp_path / "run", "--stop-after", "4")
    code, out, err = finish(start(arguments, 2))
    assert code == 0, err
    page = tmp_path / "run" / "report" / "index.html"
    assert "Not finished: align, step 4 of 10." in page.read_text()
    code, out, err = finish(start(train_arguments(recipe, tmp_path / "run"), 2))
    assert code == 0, err
    assert "no page is written" not in out
    text = page.read_text()
    assert "<b>Finished.</b>" in text
    assert [start["step"] for start in RunRecord.of(tmp_path / "run").starts] == [0, 4, 0]
    assert not any(start["compiled"] for start in RunRecord.of(tmp_path / "run").starts)
    code, out, err = finish(start(["launchers/report.py", "--run", str(tmp_path / "run")]))
    assert code == 0, err
    again = page.read_text()
    assert [line for line in again.splitlines() if "Written" not in line] == [
        line for line in text.splitlines() if "Written" not in line
    ]


def test_report_of_nothing_is_one_line(tmp_path: Path) -> None:
    code, _, err = finish(start(["launchers/report.py", "--run", str(tmp_path)]))
    assert code == 2
    assert "expected the folder of a run" in err
    assert "Traceback" not in err
