"""Intervals against scipy; results are written whole, and merged for the same weights only."""

import json
from pathlib import Path

import pytest
from scipy import stats

from prealign.errors import UserError
from prealign.evaluation.results import results_path, wilson_interval, write_results


def test_wilson_interval() -> None:
    for trials in (1, 2, 7, 50, 1000, 10_000):
        for hits in {0, 1, trials // 5, trials // 2, trials - 1, trials}:
            expected = stats.binomtest(hits, trials).proportion_ci(confidence_level=0.95, method="wilson")
            assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0, 100)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_results_of_the_same_weights_are_kept(tmp_path: Path) -> None:
    path = results_path(tmp_path / "evaluation", "pretrain", 7)
    assert path == tmp_path / "evaluation" / "step-7.json"
    assert results_path(tmp_path, "align", 7).name == "align-step-7.json"
    write_results(path, {"identity": "a", "metrics": {"lm": {"x": 1}}})
    write_results(path, {"identity": "a", "metrics": {"mexa": {"x": 2}}})
    assert json.loads(path.read_text())["metrics"] == {"lm": {"x": 1}, "mexa": {"x": 2}}
    write_results(path, {"identity": "b", "metrics": {"mexa": {"x": 3}}})
    assert json.loads(path.read_text())["metrics"] == {"mexa": {"x": 3}}
    path.write_text("half a fi")
    write_results(path, {"identity": "b", "metrics": {"lm": {"x": 4}}})
    assert json.loads(path.read_text())["metrics"] == {"lm": {"x": 4}}


def test_a_value_that_is_no_number_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "step-1.json"
    write_results(path, {"identity": "a", "metrics": {}})
    before = path.read_text()
    with pytest.raises(UserError, match="runs/a/weights: its model gives values that are not finite"):
        write_results(path, {"identity": "a", "weights": "runs/a/weights", "metrics": {"lm": float("nan")}})
    assert path.read_text() == before


def test_no_room(tmp_path: Path) -> None:
    (tmp_path / "evaluation").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"step-1.json: cannot be written"):
        write_results(results_path(tmp_path / "evaluation", "pretrain", 1), {"identity": "a", "metrics": {}})
