"""`launchers/plan.py` as a user starts it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planning.sweep_files import H100, OOM, row, stage, write
from tests.processes import ROOT, finish, start


def plan(*arguments: str) -> tuple[int, str, str]:
    return finish(start(["launchers/plan.py", *arguments]))


def test_a_plan_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    code, out, error = plan("--config", "real_1p3b", "--gpus", "64", "--price", "2", "--json", str(path))
    assert code == 0, error
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "word vectors", "gathered vectors"):
        assert part in out
    for part in ("matrix products", "attention", "elementwise", "cross-entropy", "alignment loss", "hidden", "MFU"):
        assert part in out
    assert "rates: measured (h100/ceilings.json" in out
    assert "kWh" in out
    assert "at 2 a GPU hour" in out
    assert "recommended: ZeRO" in out
    assert "limited by" in out
    record = json.loads(path.read_text())
    assert record["recipe"]["stages"]["pretrain"]["memory"]["weights"] == 2 * 1_415_696_384
    assert record["recommended"]["seconds"] <= record["recipe"]["seconds"]


def test_it_answers_at_once() -> None:
    """Without torch, of which the import alone takes seconds; in seconds of a CPU, whatever else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, _, error = plan("--config", "real_13b", "--gpus", "512", "--device", "a100")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0, error
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    script = "import sys, launchers.plan; assert not {'torch', 'deepspeed', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_a_sweep_is_a_table_and_a_figure(tmp_path: Path) -> None:
    figure = tmp_path / "sweep.svg"
    code, out, error = plan("--config", "real_1p3b", "--sweep", "--plot", str(figure))
    assert code == 0, error
    rows = [line.split()[:2] for line in out.splitlines()]
    assert all([model, gpus] in rows for model in ("150M", "1.3B", "13B") for gpus in ("8", "64", "512"))
    assert "<svg" in figure.read_text()


def test_a_measured_sweep_stands_beside_the_plan(tmp_path: Path) -> None:
    found = {"align": stage(1.6, 16_384), "pretrain": stage(1.25, 0, 38.0)}
    rows = [row(["batch.micro_batch_size=16"], found, 16), row(["batch.micro_batch_size=32"], OOM, 32)]
    path, out_path = write(tmp_path / "sweep.jsonl", rows), tmp_path / "plan.json"
    code, out, error = plan("--config", "real_1p3b", "--measured", str(path), "--json", str(out_path))
    assert code == 0, error
    assert "1 of 2 steps within 15 % of time, 1 of 2 peaks within 10 % of memory, 0 of 1 points" in out
    assert "2 of 2 measured points are of this run's steps on 8 GPUs: plans follow them" in out
    assert "pretrain: measured (batch.micro_batch_size=16, scaled to this step as planned)" in out
    assert "measured (h100/ceilings.json" in out  # rates of the tree stay
    recommended = json.loads(out_path.read_text())["recommended"]["stages"]["pretrain"]["layout"]
    assert not recommended.startswith("ZeRO 1, tensor size 1, 32")
    beside = json.loads(out_path.read_text())["measured"]
    assert [row["seconds_per_step"]["measured"] for row in beside] == [1.6, 1.25, None, None]
    code, twice, error = plan("--config", "real_1p3b", "--measured", str(path), "--measured", str(path))
    assert code == 0, error
    assert twice == out.replace(f"wrote {out_path}\n", "")
    out = plan("--config", "real_1p3b", "--gpus", "64", "--measured", str(path))[1]
    assert "0 of 2 measured points are of this run's steps on 64 GPUs" in out
    out = plan("--config", "real_1p3b", "--measured", str(path), "--sweep")[1]
    assert "1 of 2 steps within 15 % of time" in out


def test_a_sweep_with_other_values_is_one_line(tmp_path: Path) -> None:
    values = row(["batch.micro_batch_size=16"], {"align": stage(1.6, 16_384), "pretrain": stage(1.25)}, 16)
    values["record"]["stages"]["align"]["mfu"] = float("nan")
    path = write(tmp_path / "sweep.jsonl", [values])
    code, out, error = plan("--config", "real_1p3b", "--measured", str(path))
    assert (code, out) == (2, "")
    message = "record.stages.align.mfu: found nan; expected a number from 0 to 1; measure it again"
    assert error == f"error: --measured: {path}, row 1: {message}\n"
    path.write_text(path.read_text()[:-9])
    code, out, error = plan("--config", "real_1p3b", "--measured", str(path))
    assert (code, out) == (2, "")
    assert error.startswith(f"error: --measured: {path} is not JSON, nor is a line of it a whole row of a sweep")


@pytest.mark.long
def test_a_real_sweep(tmp_path: Path) -> None:
    """What `launchers/benchmark.py` writes is what is read, but that a CPU is refused."""
    path, config = tmp_path / "sweep.jsonl", ["--config", "enclone_demo", "parallel.precision=fp32"]
    words = ["--stage", "pretrain", "--steps", "1", "--warmup", "0", "--accumulation", "1"]
    sweep = ["--sweep", "batch.micro_batch_size=1,2", "--json", str(path)]
    code, _, error = finish(start(["launchers/benchmark.py", *config, *words, *sweep]))
    assert code == 0, error
    arguments = [*config, "align.words_per_step=32", "align.coverage=null", "--gpus", "1", "--measured", str(path)]
    code, _, error = plan(*arguments)
    assert code == 2
    assert "(CPU)'; expected a record of H100 with 80 GB; there are no plans for a CPU" in error
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for values in rows:
        values["record"]["device"] = H100  # as if it had been one
    write(path, rows)
    code, out, error = plan(*arguments)
    assert code == 0, error
    assert "of 2 steps within 15 % of time" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "v100"], "--device: found 'v100'; expected one of a100"),
        (["--gpus", "12"], "--gpus: found 12 with 8 a node"),
        (["--gpus", "0"], "found '0'; expected a number above 0"),
        (["--gpus", "1" + 400 * "0"], "--gpus: found a number of 401 digits; expected at most 1000000"),
        (["--price", "1e308"], "found '1e308'; expected a number above 0"),
        (["--price", "free"], "found 'free'; expected a number above 0"),
        (["--plot", "x.svg"], "--plot: found no --sweep"),
        (["--json", "/nowhere/plan.json"], "found no folder '/nowhere'"),
        (["--json", "configs"], "--json: 'configs' cannot be written: it is there and no file"),
        (["--json", "x" * 252], "cannot be written: File name too long"),  # with what a partial file is called
        (["--json", "x" * 300], "cannot be written (File name too long"),
        (["--sweep", "--plot", "configs"], "--plot: 'configs' cannot be written"),
        (["--sweep", "--json", "plan.json"], "--json: found --sweep beside it"),
        (["--measured", "README.md"], "README.md is not JSON"),
        (["--gpus", "6", "parallel.tensor_parallel_size=4"], "does not start: parallel: found tensor_parallel_size=4"),
        (["align.coverage=3", "align.words_per_step=null"], "align.coverage: found 3"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    code, out, error = plan("--config", "real_1p3b", *arguments)
    assert message in out + error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 1 or error.startswith("usage")
    assert code == (0 if "does not start" in message else 2)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    code, out, error = plan("--config", "real_1p3b", "--json", str(path))
    assert (code, out) == (2, "")
    assert error.startswith(f"error: --json: '{path}' cannot be written")
    assert path.is_fifo()
    assert [*tmp_path.iterdir()] == [path]


def test_a_recipe_that_does_not_start_gets_a_layout() -> None:
    code, out, error = plan("--config", "real_1p3b", "--gpus", "16", "batch.global_batch_size=1000")
    assert code == 0, error
    assert "as the recipe has it: does not start: align: found global_batch_size=1000 on 16 groups of ranks" in out
    assert "recommended: ZeRO" in out


def test_nothing_fits() -> None:
    code, out, _ = plan("--config", "real_13b", "--gpus", "1", "--device", "rtx4090")
    assert code == 0
    assert "nothing fits; the least memory: ZeRO 3" in out
    assert "does not fit" in out
