"""Target tokens saved, from ladders made of known laws."""

import math
from pathlib import Path

import pytest

from prealign.scaling.savings import Saving, savings
from prealign.scaling.study import LanguageStudy
from tests.scaling.ladders import Truth, demo_plan, fill


def found(folder: Path, truth: Truth, noise: float = 0.0, draws: int = 2) -> list[Saving]:
    ladder, plan = demo_plan(folder)
    study = LanguageStudy(fill(ladder, plan, truth, noise), "clone", draws)
    reference = study.reference()
    assert reference.fit is not None
    assert reference.form.name == "transfer, repeated data"
    return savings(study, reference.fit)


def test_effective_tokens_are_those_of_the_law(tmp_path: Path) -> None:
    """PreAlign has 0.04 S tokens more than Joint Training, whatever it reads itself."""
    every = found(tmp_path, Truth(limit=4.0))
    assert len(every) == 16
    for saving in every:
        expected = saving.tokens + (0.05 - 0.01) * saving.run.budgets["en"]
        assert saving.effective == pytest.approx(expected, rel=0.02), saving.run.label
        assert saving.ratio == pytest.approx(expected / saving.tokens, rel=0.02)
        if saving.by_interpolation is not None:  # a line where the law is curved
            assert saving.by_interpolation == pytest.approx(expected, rel=0.05)
    between = {saving.run.label: saving.by_interpolation is not None for saving in every}
    assert between["4x128 PreAlign: en 819,200, clone 32,768"]
    assert not between["2x64 PreAlign: en 409,600, clone 16,384"]  # with as little English there is one run


@pytest.mark.long
def test_what_lies_beyond_the_runs_is_said(tmp_path: Path) -> None:
    kinds = {saving.run.label: saving.kind for saving in found(tmp_path / "a", Truth())}
    assert set(kinds.values()) == {"within measured runs"}
    far = {saving.run.label: saving for saving in found(tmp_path / "b", Truth(tau=(0.01, 0.3)))}
    assert far["2x64 PreAlign: en 819,200, clone 8,192"].kind == "within measured runs"
    saving = far["4x128 PreAlign: en 819,200, clone 8,192"]
    assert saving.kind == "extrapolated: 131,072 at most at this size"
    assert saving.by_interpolation is None
    farther = {saving.run.label: saving for saving in found(tmp_path / "c", Truth(tau=(0.01, 4.0)))}
    saving = farther["2x64 PreAlign: en 819,200, clone 8,192"]
    assert saving.effective > 1_048_576
    assert saving.kind == "extrapolated: 1,048,576 at most at any size"


def test_a_loss_that_the_reference_never_has(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    measured = fill(ladder, plan, Truth())
    study = LanguageStudy(measured, "clone", 2)
    for run in study.runs:
        if run.method == "PreAlign":
            run.losses["clone"] = 0.5
    reference = study.reference()
    assert reference.fit is not None
    for saving in savings(study, reference.fit):
        assert math.isinf(saving.effective)
        assert math.isinf(saving.interval[1])
        assert saving.kind.startswith("extrapolated")


@pytest.mark.long
def test_bands_hold_the_truth_about_as_often_as_they_say(tmp_path: Path) -> None:
    held = []
    for seed in range(12):
        ladder, plan = demo_plan(tmp_path / str(seed))
        study = LanguageStudy(fill(ladder, plan, Truth(limit=4.0), 0.005, seed), "clone", 60)
        reference = study.reference()
        assert reference.fit is not None
        for saving in savings(study, reference.fit):
            low, high = saving.interval
            held.append(low <= saving.tokens + 0.04 * saving.run.budgets["en"] <= high)
    assert 0.85 <= sum(held) / len(held) <= 0.995
