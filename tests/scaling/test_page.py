"""The page of a ladder, full, half and empty."""

from pathlib import Path

import pytest

from prealign.scaling.page import write_page
from prealign.scaling.study import LanguageStudy
from tests.scaling.ladders import Truth, demo_plan, fill


@pytest.mark.long
def test_the_page(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    measured = fill(ladder, plan, Truth(limit=4.0), 0.003)
    lines = write_page(plan, measured, tmp_path / "pages" / "page.html", {"joint-s9": "error: <no luck>"}, draws=4)
    assert lines[0] == "clone: effective target tokens"
    page = (tmp_path / "pages" / "page.html").read_text()
    for text in (
        "46 of 46 runs are measured, seed 21",
        "error: &lt;no luck&gt;",
        "no\nprediction was written before these runs",
        "4x128: a token of clone did for PreAlign what ",
        "<td>within measured runs</td>",
        "Inverted is the law &#39;transfer, repeated data&#39; as fitted to the 30 runs of Joint Training.",
        "<li>repeated data, PreAlign: not identifiable: 0 runs of 2 read a 4th of their text again or more.</li>",
        "<th>tau PreAlign</th>",
        "launchers/pretrain.py name=joint-s21-",
        "<td>0.90</td>",
    ):
        assert text in page, text
    assert page.count("<svg") == 5  # effective tokens, and two methods of two languages
    assert "nan" not in page.lower().replace("nano", "")


def test_a_page_without_results(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    measured = fill(ladder, plan, Truth(), sizes=[])
    assert "clone: nothing is measured yet" in write_page(plan, measured, tmp_path / "page.html", {})
    page = (tmp_path / "page.html").read_text()
    assert "0 of 46 runs are measured" in page
    assert "<svg" not in page


def test_a_page_of_some_sizes(tmp_path: Path) -> None:
    """What cannot be fitted is said, and what was measured is shown."""
    ladder, plan = demo_plan(tmp_path)
    write_page(plan, fill(ladder, plan, Truth(), sizes=["2x32", "2x64"]), tmp_path / "page.html", {}, draws=2)
    page = (tmp_path / "page.html").read_text()
    assert "not identifiable: 2 sizes of 3" in page
    assert "No curve of Joint Training to invert: not identifiable: 2 sizes of 3." in page
    assert "<circle" in page


def test_r_squared_is_of_the_runs_that_were_fitted(tmp_path: Path) -> None:
    ladder, plan = demo_plan(tmp_path)
    study = LanguageStudy(fill(ladder, plan, Truth(limit=2.0)), "clone", 1)
    fits = {(fitted.form.name, fitted.scope): fitted for fitted in study.fits()}
    assert fits["repeated data", "PreAlign"].fit is None
    both = fits["transfer, repeated data", "Joint Training, PreAlign"].fit
    assert both is not None
    assert both.values["R*"] == pytest.approx(2.0, rel=0.05)
