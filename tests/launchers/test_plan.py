"""`launchers/plan.py` as a user starts it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "v100"], "--device: found 'v100'; expected one of a100"),
        (["--gpus", "12"], "--gpus: found 12 with 8 a node"),
        (["--gpus", "0"], "found '0'; expected a number above 0"),
        (["--price", "free"], "found 'free'; expected a number above 0"),
        (["--plot", "x.svg"], "--plot: found no --sweep"),
        (["--json", "/nowhere/plan.json"], "found no folder '/nowhere'"),
        (["--measured", "README.md"], "README.md is not JSON"),
        (["--gpus", "6", "parallel.tensor_parallel_size=4"], "does not start: parallel: found tensor_parallel_size=4"),
        (["align.coverage=3", "align.words_per_step=null"], "align.coverage: found 3"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    code, out, error = plan("--config", "real_1p3b", *arguments)
    assert message in out + error
    assert "Traceback" not in error
    assert code == (0 if "does not start" in message else 2)


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
