"""The benchmark measures what it says, and its problems are what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prealign.kernels.benchmarks import __main__ as command
from prealign.kernels.benchmarks.candidates import CANDIDATES
from prealign.kernels.benchmarks.children import Children
from prealign.kernels.benchmarks.problems import many_positives, one_positive
from prealign.kernels.relations import edges

CPU = torch.device("cpu")


def test_groups_of_five_words() -> None:
    problem = many_positives(1, 12, 4, 0.1, torch.float32, CPU)
    positives = set(zip(*(part.tolist() for part in edges(problem.relations.positives))))
    ignored = set(zip(*(part.tolist() for part in edges(problem.relations.ignored))))
    groups = [range(0, 5), range(5, 10), range(10, 12)]
    pairs = {(i, j) for group in groups for i in group for j in group if i != j}
    assert positives == {(i, j) for i, j in pairs if i % 5 == 0 or j % 5 == 0}
    assert ignored == pairs - positives


@pytest.mark.parametrize("candidate", [c for c in CANDIDATES if not c.gpu_only], ids=lambda c: c.name)
def test_candidates_compute_the_same_loss(candidate) -> None:
    problem = one_positive(2, 32, 16, 0.1, torch.float32, CPU)
    try:
        loss = candidate.build(problem)
    except ImportError as error:
        pytest.skip(str(error))
    total = sum(float(loss([layer])) for layer in problem.z)
    scores = problem.z.double() @ problem.z.double().mT / 0.1
    expected = -scores.log_softmax(dim=-1)[:, torch.arange(32), problem.partner].mean(dim=1).sum()
    assert total == pytest.approx(expected.item(), rel=1e-5)


def test_ours_come_first_on_every_batch() -> None:
    order = [(kind, candidate.name) for kind, candidate in command._order(CANDIDATES, large=True)]
    assert order[:3] == [("many", "triton"), ("one", "triton"), ("large", "triton")]
    assert len(order) == len(set(order)) == 1 + 2 * len(CANDIDATES) - sum(candidate.single for candidate in CANDIDATES)
    assert ("many", "inf-cl") not in order


def test_measurements_that_hang_fail_or_come_too_late() -> None:
    options = ["--device", "cpu", "--quick"]
    assert Children(options, row_seconds=0.1).figures("rates", "") == {"failed": "stopped after 0 s"}
    assert Children(options, seconds=0).figures("rates", "") == {"skipped": "no time left of 0 s"}
    failed = Children([*options, "--words", "3"]).figures("rates", "")["failed"]
    assert failed.startswith("exit code 2")
    assert "--words: found 3; expected an even number" in failed


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ["--quick", "--words", "64", "--size", "16", "--only", "chunked", "--out", str(out)]
    command = [sys.executable, "-m", "prealign.kernels.benchmarks", "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [(row["kind"], row["name"]) for row in report["rows"]] == [("many", "chunked"), ("one", "chunked")]
    assert all(row["gradient_error"] < 1e-5 and row["same_bits"] for row in report["rows"])
    assert report["rates"]["matrix_tflops"] > 0
    assert out.with_suffix(".png").stat().st_size > 0
