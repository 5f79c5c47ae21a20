"""Verdicts on the figures of a GPU."""

from typing import Any

import pytest

from prealign.kernels.benchmarks.targets import verdicts


def report() -> dict[str, Any]:
    """Figures that meet every target."""
    ours = {"forward_backward_s": 0.15, "tflops": 870.0, "extra_bytes": 9e8, "gradient_error": 3e-3, "same_bits": True}
    return {
        "rates": {"pool_forward_of_copy": 0.9, "pool_backward_of_copy": 0.85},
        "rows": [
            {"kind": "many", "name": "triton", **ours},
            {"kind": "many", "name": "chunked", "forward_backward_s": 0.2},
            {"kind": "many", "name": "eager", "gradient_error": 2e-3},
            {"kind": "one", "name": "triton", **ours},
            {"kind": "one", "name": "inf-cl", "forward_backward_s": 0.6},
            {"kind": "large", "name": "triton", **ours},
        ],
    }


def test_all_targets_met() -> None:
    assert [verdict.passed for verdict in verdicts(report())] == [True] * 9


@pytest.mark.parametrize(
    ("row", "key", "value", "name"),
    [
        (0, "tflops", 799.0, "800 TFLOP/s"),
        (0, "extra_bytes", 1.3e9, "1.2 GB"),
        (0, "gradient_error", 5e-3, "twice"),
        (0, "same_bits", False, "same bits"),
        (1, "forward_backward_s", 0.14, "vendor's"),
        (4, "forward_backward_s", 0.44, "inf-cl"),
    ],
)
def test_a_target_missed(row: int, key: str, value: float, name: str) -> None:
    figures = report()
    figures["rows"][row][key] = value
    (failed,) = [verdict for verdict in verdicts(figures) if not verdict.passed]
    assert name in failed.name
    assert str(failed).startswith("FAIL")


def test_what_was_not_measured_is_no_pass() -> None:
    figures = report()
    figures["rows"][4] = {"kind": "one", "name": "inf-cl", "skipped": "not installed"}
    (missing,) = [verdict for verdict in verdicts(figures) if verdict.passed is None]
    assert missing.found == "not measured"


def test_a_large_batch_that_failed_is_no_pass() -> None:
    figures = report()
    figures["rows"][5] = {"kind": "large", "name": "triton", "failed": "exit code 1: out of memory"}
    (failed,) = [verdict for verdict in verdicts(figures) if not verdict.passed]
    assert str(failed) == "FAIL  65,536 words on one card: exit code 1: out of memory"
