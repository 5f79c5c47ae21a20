"""Suites as YAML: all of the repository's load; mistakes are named."""

from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.evaluation.measuring import METRICS
from prealign.suites.suite import load_suite, load_variants, suite_names, suites_at

SUITE = """
title: A title
measures: [lm]
scales: {demo: {recipe: enclone_demo, seeds: [1]}}
columns: {lm: {label: LM, value: lm.en.perplexity, better: lower}}
rows: [{label: A, variant: joint}, {label: B, variant: prealign}]
compare: [[B, A]]
figure: perplexity
"""


def test_every_table_and_figure_of_the_paper_is_there() -> None:
    of_the_paper = ["figure3", "figure4", "figure5", "table1", "table2", "table3", "table4", "table5"]
    ours = ["align_later", "families", "four_languages", "knowledge", "new_language"]
    assert suite_names() == sorted(of_the_paper + ours)
    assert suites_at("paper") == suites_at("small") == of_the_paper
    assert suites_at("demo") == suite_names()
    for name in suite_names():
        suite = load_suite(name)
        assert set(suite.measures) <= METRICS.keys()
        for column in suite.columns.values():
            assert column.value.split(".")[0] in suite.measures
    seeds = [load_suite(name).scales["demo"].seeds for name in ("table1", "table2")]
    assert seeds == [[11, 12, 13, 14, 15]] * 2


def test_the_papers_numbers() -> None:
    rows = {row.label: row.paper for row in load_suite("table1").rows}
    assert rows["PreAlign"] == {"lm_en": 15.9, "lm_clone": 16.5, "nli_en": 80.1, "nli_clone": 79.3, "clka_clone": 64.6}
    table5 = {row.label: row.paper for row in load_suite("table5").rows}
    assert table5["150M Joint"]["nli_zh"] == 24.6
    assert table5["1.3B PreAlign"]["clka_ru"] == 50.1
    assert [len(paper) for paper in table5.values() if paper] == [14] * 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("variant: joint", "variant: joynt", "found variant 'joynt'; expected one of"),
        ("[[B, A]]", "[[B, C]]", "compare, orders: found 'C'; expected labels of rows: ['A', 'B']"),
        ("label: B,", "label: A,", "found labels ['A', 'A']; expected each once"),
        ("measures: [lm]", "measures: [bleu]", "measures.0: Input should be"),
        ("figure:", "figures:", "Field required"),
        ("title: A title", "title: [", "cannot be read"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace(old, new))
    with pytest.raises(UserError) as error:
        load_suite(str(path))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    assert load_suite(str(tmp_path / "mine.yaml")).name == "mine"
    with pytest.raises(UserError, match="found suite 'table9'; expected one of"):
        load_suite("table9")
    assert {"joint", "prealign", "permuted", "perfect_init"} <= load_variants().keys()
