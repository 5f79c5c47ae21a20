"""Running a plan with stub launchers: order, skipping, going on, failures, time, signals."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from prealign.errors import Interrupted, UserError
from prealign.suites.execution import Outcome, claimed, execute, without_inputs, work_on
from prealign.suites.expansion import Plan, expand
from prealign.suites.launching import Processes, why_it_failed
from prealign.suites.listing import plan_lines
from prealign.suites.results import missing_measures, read_result, result_path
from prealign.suites.suite import load_suite, load_variants
from tests.processes import wait_for

STUB = Path(__file__).with_name("stub.py")
SUITE = """
title: Two variants
measures: [lm, facts]
scales: {demo: {recipe: enclone_demo, seeds: [1, 2]}}
columns: {lm: {label: LM, value: lm.clone.perplexity, better: lower}}
rows: [{label: Joint, variant: joint}, {label: PreAlign, variant: prealign}]
figure: perplexity
"""


class Bench:
    """A suite of four runs, its stub launchers, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launchers = folder / "launchers"
        self.launchers.mkdir()
        for name in ("prepare", "pretrain", "export", "evaluate"):
            shutil.copy(STUB, self.launchers / f"{name}.py")
        (folder / "two.yaml").write_text(SUITE)

    def plan(self, *overrides: str) -> Plan:
        suite = load_suite(str(self.folder / "two.yaml"))
        return expand([suite], load_variants(), "demo", self.folder / "results", overrides)

    def execute(self, *overrides: str, max_minutes: float | None = None) -> Outcome:
        with Processes("python", self.launchers) as processes:
            return execute(self.plan(*overrides), processes, max_minutes, lambda line: None)

    def calls(self) -> list[str]:
        """Program and variant of every call since the last time this was asked."""
        path = self.launchers / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]).rpartition("-")[0] for line in lines]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_every_run_is_trained_measured_and_written_once(bench: Bench) -> None:
    outcome = bench.execute()
    assert (len(outcome.finished), outcome.failed, outcome.not_started) == (4, {}, [])
    calls = ["prepare joint-s1", "pretrain joint-s1", "evaluate joint-s1"]
    calls += ["pretrain align-s1", "pretrain prealign-s1", "evaluate prealign-s1"]
    calls += ["pretrain joint-s2", "evaluate joint-s2"]
    calls += ["pretrain align-s2", "pretrain prealign-s2", "evaluate prealign-s2"]
    assert bench.calls() == calls
    plan = bench.plan()
    result = read_result(plan.folder, plan.measurements[1])
    assert result is not None
    assert result["metrics"] == {"lm": {"clone": {"perplexity": 150.0}}, "facts": {"skipped": "no facts"}}
    account = result["account"]
    assert (account["tokens"], account["steps"], account["align_steps"]) == (50_018, 105, 5)
    assert [(point["tokens"], point["step"]) for point in result["curves"]] == [(2_000, 5), (50_000, 105)]
    assert account["flops"] > 50_018 * 6 * 800_000
    assert (result["seed"], result["differences"], result["speed"]) == (1, ["seed=1"], 1000.0)
    assert [command.split()[1].rpartition("/")[2] for command in result["commands"]] == [
        *["prepare.py", "pretrain.py"] * 2,
        "evaluate.py",
    ]
    assert bench.execute().finished == []
    assert bench.calls() == []


def test_a_run_from_the_weights_of_another(bench: Bench) -> None:
    (bench.folder / "two.yaml").write_text(
        SUITE.replace("{label: Joint, variant: joint}", "{label: Later, variant: align_later}").replace("[1, 2]", "[1]")
    )
    plan = bench.plan()
    later = plan.measurements[0].training
    assert [training.name.rpartition("-")[0] for training in later.chain] == [
        "joint_half-s1",
        "align-s1",
        "align_later-s1",
    ]
    first, aligning, _ = later.chain
    assert [training.recipe.seed for training in later.chain] == [1, 1001, 1001]
    assert first.recipe.model.init == "random"
    assert aligning.recipe.model.init == later.recipe.model.init == f"hf:{first.export}"
    assert sum(training.tokens for training in later.chain) == sum(
        training.tokens for training in plan.measurements[1].training.chain
    )
    assert bench.execute().failed == {}
    assert bench.calls()[:6] == [
        "prepare joint_half-s1",
        "pretrain joint_half-s1",
        "export joint_half-s1",
        "pretrain align-s1",
        "pretrain align_later-s1",
        "evaluate align_later-s1",
    ]
    result = read_result(plan.folder, plan.measurements[0])
    assert result is not None
    # the stub's runs have 50,000 positions of text and 18 of words each, and 100 steps, 5 of them before pretraining
    account = result["account"]
    assert account["text"] == {"en": 80_000, "clone": 20_000}
    assert (account["tokens"], account["steps"], account["align_steps"]) == (2 * 50_018, 205, 5)
    assert [(point["tokens"], point["step"]) for point in result["curves"]] == [(52_018, 105), (100_018, 205)]
    assert [command.split()[1].rpartition("/")[2] for command in result["commands"]] == [
        *["prepare.py", "pretrain.py"],
        *["prepare.py", "export.py", "pretrain.py"],
        *["prepare.py", "pretrain.py"],
        "evaluate.py",
    ]
    bench.execute()
    assert bench.calls() == []


def test_other_measurements_do_not_train_again(bench: Bench) -> None:
    bench.execute()
    bench.calls()
    path = result_path(bench.plan().folder, bench.plan().measurements[0])
    result = json.loads(path.read_text())
    del result["metrics"]["facts"]
    path.write_text(json.dumps(result))
    bench.execute()
    assert bench.calls() == ["evaluate joint-s1"]
    assert json.loads(path.read_text())["metrics"].keys() == {"lm", "facts"}
    # values of other weights do not stay
    result["weights"] = "others"
    path.write_text(json.dumps(result))
    bench.execute()
    assert json.loads(path.read_text())["metrics"].keys() == {"facts"}
    bench.execute()
    bench.calls()
    # other settings of the measurements: the run folder's recipe is brought up to date, everything measured again
    assert len(bench.execute("evaluation.tokens=99").finished) == 4
    assert bench.calls()[:3] == ["prepare joint-s1", "pretrain joint-s1", "evaluate joint-s1"]
    assert missing_measures(bench.plan().folder, bench.plan().measurements[0]) == ["facts", "lm"]


def test_a_failure_leaves_others_alone_and_is_not_repeated(bench: Bench) -> None:
    (bench.launchers / "fail-align-s1").touch()
    outcome = bench.execute()
    assert [name.rpartition("-")[0] for name in outcome.finished] == ["joint-s1", "joint-s2", "prealign-s2"]
    (failed,) = outcome.failed
    assert failed.startswith("prealign-s1-")
    assert "no luck" in outcome.failed[failed]
    assert "[launch.py" not in outcome.failed[failed]
    assert not any(call.endswith("prealign-s1") for call in bench.calls())
    (bench.launchers / "fail-align-s1").unlink()
    assert bench.execute().finished == [failed]
    assert bench.calls() == ["prepare align-s1", "pretrain align-s1", "pretrain prealign-s1", "evaluate prealign-s1"]


def test_nothing_starts_after_the_time(bench: Bench) -> None:
    outcome = bench.execute(max_minutes=0)
    assert (outcome.finished, len(outcome.not_started)) == ([], 4)
    assert bench.calls() == []


def test_a_signal_stops_the_run_and_the_next_call_goes_on(bench: Bench) -> None:
    (bench.launchers / "slow").touch()
    training = bench.plan().measurements[0].training

    def stop() -> None:
        wait_for(lambda: (training.recipe.folder / "checkpoint").exists())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted):
        bench.execute()
    thread.join()
    assert bench.calls() == ["prepare joint-s1", "pretrain joint-s1"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (bench.launchers / "slow").unlink()
    assert len(bench.execute().finished) == 4
    assert bench.calls()[:2] == ["prepare joint-s1", "pretrain joint-s1"]


def test_the_list_says_what_is_done_and_how_long_the_rest_takes(bench: Bench) -> None:
    before = list(plan_lines(bench.plan()))
    assert [line.split()[-2:] for line in before[1:7]] == [["to", "train"]] * 6
    assert "4 cells (row and seed) need 4 results (0 there) of 6 trainings" in before[-1]
    assert before[-1].endswith("about ?")
    (bench.launchers / "fail-joint-s2").touch()
    bench.execute()
    after = list(plan_lines(bench.plan()))
    assert [line.split()[-1] for line in after[1:7]] == ["trained", "trained", "trained", "train", "trained", "trained"]
    # 1,638,400 tokens at the 1,000 a second of the runs of this shape
    assert after[-1].endswith("1,638,400 of them to train: about 27.3 min")


def test_damaged_results_and_missing_programs_are_named(bench: Bench) -> None:
    bench.execute()
    path = result_path(bench.plan().folder, bench.plan().measurements[0])
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=f"{path}: not a result file; move it away"):
        bench.execute()
    path.unlink()
    with Processes("no-such-launcher -n 2", bench.launchers) as processes:
        outcome = execute(bench.plan(), processes, None, lambda line: None)
    assert "--launcher: 'no-such-launcher' cannot be run" in next(iter(outcome.failed.values()))
    with pytest.raises(UserError, match="--launcher: found nothing"):
        Processes("", bench.launchers)


def test_two_calls_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "demo"
    with (
        claimed(folder),
        pytest.raises(UserError, match="is at work there; wait for it"),
        claimed(folder),
    ):
        pass
    with claimed(folder):
        pass


def test_why_it_failed() -> None:
    noise = "[2026-01-01] [INFO] [launch.py:400:sigkill_handler] Killing subprocess 7"
    assert why_it_failed(["a", "error: b", "c", noise]) == "error: b"
    assert why_it_failed(["Traceback", "ValueError: x", noise]) == "ValueError: x"
    assert why_it_failed([noise]) == noise
    assert why_it_failed([]) is None


def test_runs_without_text_leave_others_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row whose text is not there is named before the others run; without others nothing starts."""
    text = "'languages.en.text.files=[nowhere.jsonl]'"
    rows = f"rows: [{{label: Joint, variant: joint, overrides: [{text}]}}, {{label: PreAlign, variant: prealign}}]"
    (bench.folder / "two.yaml").write_text(SUITE[: SUITE.index("rows:")] + rows + "\nfigure: perplexity\n")
    outcome = work_on(bench.plan(), "python", bench.launchers, None)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("note: languages.en.text.files: no file matches 'nowhere.jsonl'")
    assert first.endswith("; give languages.en.text.files=[...]")
    assert [name.partition("-")[0] for name in outcome.finished] == ["prealign"] * 2
    assert [name.partition("-")[0] for name in outcome.failed] == ["joint"] * 2
    assert not any("joint" in call for call in bench.calls())
    with pytest.raises(UserError, match=r"languages\.en\.text\.files: no file matches"):
        work_on(bench.plan(), "python", bench.launchers, None)
    assert bench.calls() == []
    # data that is prepared needs no text
    monkeypatch.setattr("prealign.suites.execution.is_prepared", lambda recipe: True)
    assert without_inputs(bench.plan()) == {}
    assert [name.partition("-")[0] for name in bench.execute().finished] == ["joint"] * 2
    assert bench.calls()[:2] == ["pretrain joint-s1", "evaluate joint-s1"]
