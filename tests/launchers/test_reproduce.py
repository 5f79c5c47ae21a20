"""launchers/reproduce.py: a suite of two variants from text to page, and one-line errors."""

import json
from pathlib import Path

import pytest

from prealign.config import dump_recipe
from tests.conftest import tiny_recipe
from tests.processes import finish, start

SUITE = """
title: Two variants
measures: [lm, facts]
scales: {demo: {recipe: RECIPE, seeds: [1]}}
columns:
  lm: {label: LM Clone, value: lm.clone.perplexity, better: lower}
  clka:
    label: CLKA
    value: facts.over_periods.panels.en -> clone.pooled.accuracy
    better: higher
    percent: true
    chance: 0.25
rows: [{label: Joint, variant: joint}, {label: PreAlign, variant: prealign}]
orders: {lm: [[PreAlign, Joint]]}
figure: facts
"""


def reproduce(*arguments: str) -> tuple[int, str, str]:
    return finish(start(["launchers/reproduce.py", *arguments]))


@pytest.mark.slow
def test_from_text_to_page(tmp_path: Path) -> None:
    facts = {"periods": 2, "period": 20, "frequencies": [2], "per_frequency": 32, "learned_in": ["en"]}
    recipe = tiny_recipe(tmp_path / "data", model={"context": 64}, facts=facts | {"statement_tokens": 80})
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe))
    suite = tmp_path / "two.yaml"
    suite.write_text(SUITE.replace("RECIPE", str(tmp_path / "tiny.yaml")))
    options = [str(suite), "--results", str(tmp_path / "out"), "--launcher", "python"]
    code, out, err = reproduce(*options)
    assert code == 0, out + err
    found = {
        path.name.partition("-")[0]: json.loads(path.read_text()) for path in (tmp_path / "out/demo").glob("*.json")
    }
    assert set(found) == {"joint", "prealign"}
    joint, prealign = found["joint"]["account"], found["prealign"]["account"]
    assert abs(joint["tokens"] - prealign["tokens"]) <= 1024
    for language, most in (("en", 1024), ("clone", 64)):
        spent = [account["text"][language] + account["words"][language] for account in (joint, prealign)]
        assert abs(spent[0] - spent[1]) <= most
    assert prealign["align_steps"] == 6
    assert prealign["words"]["en"] > 0
    assert found["prealign"]["curves"][-1]["step"] == prealign["steps"]
    page = (tmp_path / "out/demo/two.html").read_text()
    assert f"{found['prealign']['metrics']['lm']['clone']['perplexity']:.1f}" in page
    assert "2 of 2 results are there" in page
    code, out, _ = reproduce(*options, "--list")
    assert code == 0
    assert "(2 there) of 3 trainings" in out
    assert " 0 of them to train: about 0.0 min" in out


def test_the_plan_of_all_suites() -> None:
    code, out, err = reproduce("all", "--scale", "paper", "--list")
    assert code == 0, err
    assert "for figure3 'PreAlign', figure4 'PreAlign', table1 'PreAlign', table2 'PreAlign (both)'" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "found suite 'table9'; expected one of"),
        (["seed=3"], "found no suite; expected names of"),
        (["table1", "model.layer=3"], "model.layer: unknown key; did you mean 'layers'"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(arguments: list[str], message: str) -> None:
    code, _, err = reproduce(*arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1)
    assert message in errors[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("suite", "keys"),
    [("four_languages", ["zh", "de", "ar", "ru"]), ("table5", ["de", "ru"])],
)
def test_text_that_is_the_users_is_missed_before_anything_starts(tmp_path: Path, suite: str, keys: list[str]) -> None:
    options = [suite, "--scale", "demo", "--results", str(tmp_path / "out"), f"data.dir={tmp_path / 'data'}"]
    code, out, err = reproduce(*options, "--launcher", "python")
    (line,) = err.splitlines()
    assert code == 2
    assert "prepare" not in out
    assert "page" not in out
    assert line.startswith("error: languages.")
    assert ".text.files: no file matches 'text/" in line
    for key in keys:
        assert f" languages.{key}.text.files=[...] languages.{key}.dictionaries=[...]" in line
    assert list(tmp_path.iterdir()) == []
    code, out, err = reproduce(*options, "--list")
    assert code == 0, err
    assert out.count(line.replace("error: ", "note: ")) == 1
