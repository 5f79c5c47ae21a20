"""Predictions of the largest size: written before it is measured, compared afterwards."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.scaling.page import write_page
from prealign.scaling.predictions import FILE, predict, read_predictions
from prealign.scaling.study import LanguageStudy
from tests.scaling.ladders import Truth, demo_plan, fill

SMALLER = ["2x32", "2x64", "3x96"]


@pytest.mark.long
def test_predictions_are_written_before_and_compared_after(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    truth = Truth(limit=4.0)
    before = fill(ladder, plan, truth, 0.003, sizes=SMALLER)
    made = predict(before, plan.folder / FILE, draws=20)
    assert read_predictions(plan.folder / FILE) == made
    assert datetime.fromisoformat(made.date) <= datetime.now(UTC)
    assert (made.held_out, len(made.fitted_to)) == ("4x128", 38)
    forms = {(row.language, row.form) for row in made.predictions}
    assert ("clone", "transfer, repeated data") in forms
    assert ("en", "Chinchilla") in forms
    assert ("en", "transfer") not in forms  # the source borrows from nothing
    best = [row for row in made.predictions if (row.language, row.form) == ("clone", "transfer, repeated data")]
    assert len(best) == 8
    for row in best:
        run = next(run for run in before.runs if run.name == row.run)
        tokens = run.budgets["clone"]
        exact = truth.loss(run.parameters, tokens, run.budgets["en"], run.method, tokens)
        assert row.loss == pytest.approx(exact, rel=0.015)
        assert row.low <= row.loss <= row.high
    after = fill(ladder, plan, truth, 0.003)
    write_page(plan, after, tmp_path / "page.html", {}, draws=2)
    page = (tmp_path / "page.html").read_text()
    assert f"Predicted on {made.date}, before any run of 4x128 was measured." in page
    assert f"<td>{best[0].loss:.3f}</td>" in page
    with pytest.raises(UserError, match="--predict: found 8 measured runs of 4x128; expected none"):
        predict(after, plan.folder / FILE)
    assert read_predictions(plan.folder / FILE) == made


@pytest.mark.long
def test_held_out_runs_do_not_bear_on_what_predicts_them(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    without = LanguageStudy(fill(ladder, plan, Truth(), 0.003, sizes=SMALLER), "clone", 2).tests()
    after = LanguageStudy(fill(ladder, plan, Truth(), 0.003), "clone", 2).tests()
    for one, other in zip(without, after):
        assert one.predicted == pytest.approx(other.predicted, rel=1e-3)


def test_too_few_runs(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    some = fill(ladder, plan, Truth(), sizes=["2x32"])
    some.runs[:] = [run for run in some.runs if run.method == "Joint Training" or run.budgets["en"] == 819_200]
    message = "found 3 measured runs of PreAlign below 4x128; expected 6 or more, for a law of 5 parameters"
    with pytest.raises(UserError, match=message) as raised:
        predict(some, plan.folder / FILE)
    assert "--sizes 2x32 2x64 3x96" in str(raised.value)
    one_size = fill(ladder, plan, Truth(), sizes=["2x32", "2x64"])
    with pytest.raises(UserError, match="no form can be fitted to the 30 measured runs"):
        predict(one_size, plan.folder / FILE)
    assert not (plan.folder / FILE).exists()


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert read_predictions(path) is None
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="not a file of predictions; move it away"):
        read_predictions(path)
