"""The page's numbers, from results made up for the purpose."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from prealign.evaluation.results import wilson_interval
from prealign.reports.paired import LEVEL
from prealign.suites.expansion import Measurement, Plan, expand
from prealign.suites.numbers import Numbers, numbers_of
from prealign.suites.page import write_figures, write_page
from prealign.suites.results import FORMAT_VERSION
from prealign.suites.suite import load_suite, load_variants
from prealign.suites.verdicts import Order

SUITE = """
title: Three variants
measures: [lm, facts, nli]
scales: {demo: {recipe: enclone_demo, seeds: [1, 2, 3]}}
columns:
  lm: {label: LM Clone, value: lm.clone.perplexity, better: lower}
  clka:
    label: CLKA
    value: facts.over_periods.panels.en -> clone.pooled.accuracy
    better: higher
    percent: true
    chance: 0.25
  nli: {label: XNLI, value: nli.languages.clone.accuracy, better: higher, percent: true, chance: 0.3333}
rows:
  - {label: Joint, variant: joint, paper: {lm: 21.6, clka: 27.7, nli: 74.9}}
  - {label: PreAlign, variant: prealign, paper: {lm: 16.5, clka: 64.6, nli: 79.3}}
  - {label: Target alone, variant: only_target, columns: [lm], paper: {lm: 47.2}}
compare: [[PreAlign, Joint], [Joint, Target alone]]
figure: FIGURE
notes: [A note & more]
"""


def make_plan(folder: Path, figure: str = "perplexity") -> Plan:
    (folder / "three.yaml").write_text(SUITE.replace("FIGURE", figure))
    return expand([load_suite(str(folder / "three.yaml"))], load_variants(), "demo", folder / "results")


def write(
    plan: Plan, measurement: Measurement, perplexity: float, accuracies: list[float], clone_text: int = 32_000
) -> None:
    """A result file of a run with this perplexity and these accuracies by period, of 100 facts each."""
    facts = 100 * len(accuracies)
    accuracy = sum(accuracies) / len(accuracies)
    interval = wilson_interval(round(accuracy * facts), facts)
    summary = {"accuracy": accuracy, "interval": interval, "facts": facts, "by_period": accuracies}
    metrics: dict[str, Any] = {
        "lm": {"clone": {"perplexity": perplexity}},
        "facts": {"over_periods": {"panels": {"en -> clone": {"f5": summary, "pooled": summary}}}},
        "nli": {"skipped": "no pairs of sentences (evaluation.nli)"},
    }
    points = [
        {"tokens": tokens, "step": step, "perplexity/clone": perplexity * 3 / step, "cosine": 0.5, "random_cosine": 0.1}
        for step, tokens in ((1, 10_000), (2, 20_000), (3, 30_000))
    ]
    result = {
        "format": FORMAT_VERSION,
        "run": measurement.name,
        "variant": measurement.variant,
        "seed": measurement.seed,
        "settings": measurement.settings,
        "model": measurement.training.recipe.model.model_dump(mode="json"),
        "vocab_size": measurement.training.recipe.vocab_size,
        "tokens_per_step": 4096,
        "account": {
            "text": {"en": 1_600_000, "clone": clone_text},
            "words": {"en": 700, "clone": 700},
            "tokens": 1_601_400 + clone_text,
            "steps": 400,
            "align_steps": 20,
            "flops": 2.5e13,
        },
        "speed": 5000.0,
        "curves": points,
        "metrics": metrics,
        "commands": [f"deepspeed launchers/pretrain.py name={measurement.name} 'stages=[pretrain]'"],
        "ranks": 2,
        "device": "a device",
        "versions": {"torch": "2.13", "deepspeed": "0.19"},
        "date": "2026-01-01T00:00:00+00:00",
    }
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / f"{measurement.name}.json").write_text(json.dumps(result))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Joint 430, 440, 450 and at chance; PreAlign 380, 390, 400; Target alone with one seed of three."""
    plan = make_plan(tmp_path)
    fill(plan)
    return plan


def fill(plan: Plan) -> None:
    for measurement in plan.measurements:
        if measurement.variant == "joint":
            write(plan, measurement, 420.0 + 10 * measurement.seed, [0.2, 0.3])
        elif measurement.variant == "prealign":
            write(plan, measurement, 370.0 + 10 * measurement.seed, [0.5, 0.6])
        elif measurement.seed == 1:
            write(plan, measurement, 300.0, [0.25], clone_text=90_000)


def numbers(plan: Plan) -> Numbers:
    """Those of the plan's only suite."""
    (found,) = numbers_of(plan)
    return found


def orders(plan: Plan) -> dict[tuple[str, str], Order]:
    return {(order.column, order.worse): order for order in numbers(plan).orders}


def rewrite(plan: Plan, by_seed: dict[int, tuple[float, list[float]]]) -> None:
    """PreAlign's perplexity and accuracies by seed."""
    for measurement in plan.measurements:
        if measurement.variant == "prealign":
            write(plan, measurement, *by_seed[measurement.seed])


def test_means_deviations_intervals(plan: Plan) -> None:
    found = numbers(plan)
    joint = found.cells["Joint", "lm"]
    assert (joint.mean, joint.deviation) == (440.0, 10.0)
    assert joint.interval == pytest.approx(stats.t.interval(0.95, 2, 440.0, 10.0 / 3**0.5))
    alone = found.cells["Target alone", "lm"]
    assert (alone.mean, alone.deviation, len(alone.values), alone.expected) == (300.0, None, 1, 3)
    assert ("Target alone", "clka") not in found.cells
    assert found.cells["Joint", "nli"].missing == "no pairs of sentences (evaluation.nli)"


def test_intervals_have_the_facts_that_all_seeds_share(plan: Plan) -> None:
    """Three seeds that agree on 200 facts are not certain; what a fact's period was does not make it more facts."""
    clka = numbers(plan).cells["PreAlign", "clka"]
    assert clka.values == pytest.approx([55.0] * 3)
    assert clka.interval is not None
    error = 100 * (112 / 204 * 92 / 204 / 200) ** 0.5
    assert clka.interval == pytest.approx(stats.t.interval(0.95, 2, 55.0, error))
    for measurement in plan.of(plan.suites[0], plan.suites[0].rows[0])[1:]:
        (plan.folder / f"{measurement.name}.json").unlink()
    one_seed = numbers(plan).cells["Joint", "clka"].interval
    assert one_seed == pytest.approx([100 * end for end in wilson_interval(50, 200)])  # over its facts alone


def test_periods_of_a_seed_are_one_value(plan: Plan) -> None:
    rewrite(plan, {1: (380.0, [0.9, 0.1]), 2: (390.0, [0.8, 0.3]), 3: (400.0, [0.1, 0.9])})
    by_periods = numbers(plan).cells["PreAlign", "clka"]
    rewrite(plan, {1: (380.0, [0.5, 0.5]), 2: (390.0, [0.6, 0.5]), 3: (400.0, [0.4, 0.6])})
    assert by_periods.interval == pytest.approx(numbers(plan).cells["PreAlign", "clka"].interval)


def test_orders_beside_the_papers(plan: Plan) -> None:
    rewrite(plan, {1: (400.0, [0.1]), 2: (445.0, [0.1]), 3: (441.0, [0.1])})
    found = orders(plan)
    clka, lm = found["clka", "Joint"], found["lm", "Joint"]
    assert (lm.paper, clka.paper) == ((16.5, 21.6), (64.6, 27.7))
    paired = stats.ttest_rel([430.0, 440.0, 450.0], [400.0, 445.0, 441.0])
    assert lm.verdict == "not shown to differ"
    assert lm.ahead == pytest.approx(34 / 3)
    assert lm.p == pytest.approx(paired.pvalue)  # the larger of two: Holm leaves it as it is
    # the smaller failed, so both were tested at half the level
    assert lm.interval == pytest.approx(paired.confidence_interval(0.975))
    # three seeds without any spread, but 200 and 100 facts: 25 and 10 % right
    error = 100 * (52 / 204 * 152 / 204 / 200 + 12 / 104 * 92 / 104 / 100) ** 0.5
    assert clka.ahead == pytest.approx(-15.0)
    assert clka.p == pytest.approx(2 * 2 * stats.t.sf(15.0 / error, 2))
    assert clka.verdict == "not shown to differ"


def test_verdicts(plan: Plan) -> None:
    found = orders(plan)
    assert found["lm", "Joint"].verdict == "agrees"
    # the paper has Joint ahead of the target alone; here it is behind, with one seed of the other
    alone = found["lm", "Target alone"]
    assert (alone.better, alone.ahead, alone.seeds) == ("Joint", -130.0, 1)
    assert (alone.verdict, alone.p, alone.interval) == ("no verdict from one seed", None, None)
    assert found["nli", "Joint"].verdict == "not measured"
    rewrite(plan, {seed: (470.0 + 10 * seed + seed**2, [0.6, 0.7]) for seed in (1, 2, 3)})
    assert orders(plan)["lm", "Joint"].verdict == "disagrees"


def test_a_suite_of_ones_own_says_which_row_is_ahead(tmp_path: Path) -> None:
    """Where the paper says nothing, rows are compared in every column that both have."""
    suite = SUITE.replace("FIGURE", "perplexity")
    for values in ("{lm: 21.6, clka: 27.7, nli: 74.9}", "{lm: 16.5, clka: 64.6, nli: 79.3}", "{lm: 47.2}"):
        suite = suite.replace(f", paper: {values}", "")
    (tmp_path / "own.yaml").write_text(suite)
    plan = expand([load_suite(str(tmp_path / "own.yaml"))], load_variants(), "demo", tmp_path / "results")
    for measurement in plan.measurements:
        perplexity = {"joint": 440.0, "prealign": 390.0, "only_target": 300.0}[measurement.variant]
        write(
            plan, measurement, perplexity + measurement.seed**2, [0.5] if measurement.variant == "prealign" else [0.2]
        )
    found = orders(plan)
    assert found.keys() == {("lm", "Joint"), ("clka", "Joint"), ("nli", "Joint"), ("lm", "Target alone")}
    ahead, behind = found["lm", "Joint"], found["lm", "Target alone"]
    assert (ahead.better, ahead.paper, ahead.ahead, ahead.verdict) == ("PreAlign", None, 50.0, "ahead")
    assert (behind.better, behind.ahead, behind.verdict) == ("Joint", -140.0, "behind")
    lines = write_page(plan, tmp_path / "own.html")
    assert any("PreAlign beside Joint" in line and "ahead" in line for line in lines)
    page = (tmp_path / "own.html").read_text()
    assert "Which rows are ahead?" in page
    assert "the paper&#39;s?" not in page
    assert "the paper's?" not in page


def test_a_verdict_and_its_interval_say_the_same(plan: Plan) -> None:
    for noise in (0.0, 1.0, 3.0, 10.0, 30.0, 100.0):
        values = {1: (400.0 + noise, [0.4, 0.6]), 2: (401.0, [0.5, 0.5]), 3: (410.0 - noise, [0.3, 0.7])}
        rewrite(plan, values)
        for order in orders(plan).values():
            if order.interval is not None:
                outside = not order.interval[0] <= 0 <= order.interval[1]
                assert outside == (order.verdict in ("agrees", "disagrees")) == (order.p < LEVEL)


def test_what_chance_explains(plan: Plan) -> None:
    (line,) = numbers(plan).chance
    assert line.startswith("CLKA: not shown to differ from chance (25.0): Joint 25.0 (11.7 to 38.3; 3 seeds).")
    assert "every row" not in line
    rewrite(plan, {seed: (400.0, [0.2, 0.35]) for seed in (1, 2, 3)})
    (line,) = numbers(plan).chance
    assert line.endswith("That is every row, so this column has no verdict.")
    order = orders(plan)["clka", "Joint"]
    assert order.verdict == "no verdict: neither is shown to differ from chance"
    assert (order.p, order.interval) == (None, None)


def test_other_tokens_are_told(plan: Plan) -> None:
    (line,) = numbers(plan).unequal
    assert line == "Target alone has other tokens than most rows: en 1,600,000, clone 90,000."


def test_the_page(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "pages" / "three.html"
    lines = write_page(plan, path, {"prealign-s9": "error: <no luck>"})
    assert lines[0] == "Three variants"
    assert lines[2].split("  ")[0] == "Joint"
    assert "440.0 ± 10.0 (21.6)" in lines[2]
    assert "300.0 [1 of 3 seeds] (47.2)" in lines[4]
    page = path.read_text()
    for text in (
        "<td>390.0 ± 10.0 (16.5)</td>",
        "<td>55.0 ± 0.0 (64.6)</td>",
        "<td>not measured (79.3)</td>",
        "7 of 9 results are there",
        "Joint, XNLI: no pairs of sentences (evaluation.nli)",
        "<td>50.0 (50.0 to 50.0), 3 seeds</td><td>p &lt; 0.001</td><td>agrees</td>",
        "Tested: 2 comparisons. The chance that any verdict of this page is wrong is at most 5 %",
        "1,600,000 (+ 700)",
        "<td>400 (20)</td><td>25.0</td>",
        "error: &lt;no luck&gt;",
        "A note &amp; more",
        "4 layers x 128, context 128",
        "data:image/png;base64,",
        "deepspeed launchers/pretrain.py name=joint-s1",
    ):
        assert text in page, text


@pytest.mark.parametrize("figure", ["facts", "cosine", "bars"])
def test_every_figure_is_drawn(tmp_path: Path, figure: str) -> None:
    plan = make_plan(tmp_path, figure)
    fill(plan)
    write_page(plan, tmp_path / "page.html")
    assert "data:image/png;base64," in (tmp_path / "page.html").read_text()
    (path,) = write_figures(plan, tmp_path / "figures")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 70_000


def test_a_page_without_results(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    lines = write_page(plan, tmp_path / "page.html")
    assert "missing (21.6)" in lines[2]
    page = (tmp_path / "page.html").read_text()
    assert "0 of 9 results are there" in page
    assert "Joint: no result" in page
    assert "<img" not in page
    assert write_figures(plan, tmp_path / "figures") == []
