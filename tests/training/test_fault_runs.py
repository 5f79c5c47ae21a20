"""The harness of `tests.training.fault_runs`, briefly; it takes any number of kills by hand."""

from pathlib import Path

import pytest

from tests.training.fault_runs import KINDS, disturb


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_if_undisturbed(tmp_path: Path) -> None:
    outcome = disturb(kills=10, seed=7, kinds=list(KINDS), per_run=5, work=tmp_path)
    assert outcome.faults == []
    assert sum(outcome.kills.values()) == 10
