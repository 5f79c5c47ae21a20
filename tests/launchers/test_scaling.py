"""launchers/scaling.py: two tiny runs from text to page, the plan, and one-line errors."""

import json
import re
from pathlib import Path

import pytest
import yaml

from prealign.config import dump_recipe
from tests.conftest import tiny_recipe
from tests.processes import finish, start


def scaling(*arguments: str) -> tuple[int, str, str]:
    return finish(start(["launchers/scaling.py", *arguments]))


@pytest.mark.slow
def test_from_text_to_page(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_recipe(tiny_recipe(tmp_path / "data", model={"context": 64})))
    ladder = {
        "title": "Two sizes",
        "recipe": str(tmp_path / "tiny.yaml"),
        "seeds": [1],
        "methods": {"Joint Training": "joint", "PreAlign": "prealign"},
        "reference": "Joint Training",
        "sizes": {"small": [], "large": ["model.layers=3"]},
        "runs": [{}],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ladder, sort_keys=False))
    options = ["--ladder", str(tmp_path / "mine.yaml"), "--results", str(tmp_path / "out"), "--launcher", "python"]
    code, out, err = scaling(*options, "--sizes", "small")
    assert code == 0, out + err
    results = [json.loads(path.read_text()) for path in (tmp_path / "out/demo").glob("*.json")]
    assert len(results) == 2
    for result in results:
        assert result["account"]["available"].keys() == {"en", "clone"}
        assert result["account"]["available"]["en"] > result["account"]["available"]["clone"] > 0
    page = (tmp_path / "out/demo/scaling.html").read_text()
    assert "2 of 4 runs are measured" in page
    assert "not identifiable: 1 sizes of 3" in page
    code, out, _ = scaling(*options, "--list")
    assert code == 0
    assert "(2 there) of 6 trainings" in out
    code, _, err = scaling(*options, "--predict")
    assert code == 2
    assert "--predict: found 1 measured runs of Joint Training below large; expected 6 or more" in err


def test_the_plan_of_the_demo() -> None:
    code, out, err = scaling("--list", "--sizes", "2x32", "3x96")
    assert code == 0, err
    assert "'2x32 Joint Training: en 819,200, clone 1,048,576'" in out
    assert "4x128" not in out
    assert re.search(r"^23 cells .* need 23 results \(0 there\) of 31 trainings", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "large"], "invalid choice: 'large'"),
        (["--ladder", "none.yaml"], "--ladder: found 'none.yaml'; expected a YAML file, or one of"),
        (["--sizes", "9x9", "--list"], "--sizes: found '9x9'; expected some of ['2x32', "),
        (["demo"], "found 'demo'; expected changes of the base recipe, key.sub=value"),
        (["model.layer=3", "--list"], "model.layer: unknown key; did you mean 'layers'"),
        (["--predict", "--results", "nowhere"], "found 0 measured runs of Joint Training below 4x128; expected 6"),
        (["--draws", "0"], "expected a number above 0"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(arguments: list[str], message: str) -> None:
    code, _, err = scaling(*arguments)
    errors = [line for line in err.splitlines() if "error: " in line]
    assert (code, len(errors)) == (2, 1)
    assert message in errors[0]
    assert "Traceback" not in err
