"""What was measured on the planned cards takes the place of what is planned for the same layout, and of no other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prealign.config import load_recipe
from prealign.config.stage import stage_of
from prealign.planning import planner
from prealign.planning.cluster import Cluster
from prealign.planning.cost import RunCost, StageLoad, run_cost
from prealign.planning.facts import Facts
from prealign.planning.layout import Layout, Workload
from prealign.planning.planner import Recommendation, recommend
from prealign.planning.rates import rates_of
from prealign.planning.sweeps import read_sweep
from tests.planning.sweep_files import OOM, command, row, stage, write

H100 = Cluster.of("h100", 8)
RATES = rates_of(H100.device)
STAGES = [stage_of(load_recipe("real_1p3b"), name) for name in ("align", "pretrain")]
LAYOUTS = [Layout.of(stage) for stage in STAGES]
ZERO_3 = "parallel.zero_stage=3"


def run(sequences: int, facts: Facts, cluster: Cluster = H100, **changes: Any) -> RunCost:
    loads, layouts = loads_of(sequences), [replace(layout, **changes) for layout in LAYOUTS]
    return run_cost(loads, layouts, cluster, RATES, facts=facts)


def loads_of(sequences: int) -> list[StageLoad]:
    return [StageLoad(s.name, replace(Workload.of(s), sequences=sequences), n) for s, n in zip(STAGES, (500, 9000))]


def measured(path: Path, *rows: dict[str, Any]) -> Facts:
    return Facts(read_sweep(write(path / "sweep.jsonl", rows), H100.device, 2.5).points)


def found(path: Path, *rows: dict[str, Any]) -> Recommendation:
    return recommend(loads_of(1024), LAYOUTS, H100, RATES, facts=measured(path, *rows))


def steps(align: float, pretrain: float, gigabytes: float = 40.0) -> dict[str, Any]:
    return {"align": stage(align, 16_384, gigabytes), "pretrain": stage(pretrain, 0, gigabytes)}


def test_a_measured_step_takes_the_place_of_the_planned(tmp_path: Path) -> None:
    facts = measured(tmp_path, row(["batch.micro_batch_size=16"], steps(2.5, 1.75, 79.0), 16))
    cost = run(4 * 16 * 8, facts)
    assert [stage.step_seconds for stage in cost.stages] == [2.5, 1.75]
    assert cost.seconds == 500 * 2.5 + 9000 * 1.75
    assert cost.stages[1].mfu == pytest.approx(cost.stages[1].time.total / 1.75 * run(512, Facts()).stages[1].mfu)
    assert cost.peak.peak_bytes == 79e9
    assert cost.fits  # more than a plan may take, but it ran
    assert str(cost.stages[1].measured) == "measured (batch.micro_batch_size=16)"


def test_more_micro_batches_grow_as_planned(tmp_path: Path) -> None:
    facts, nothing = measured(tmp_path, row(["batch.micro_batch_size=16"], steps(2.5, 1.75), 16)), Facts()
    ratio = run(1024, nothing).stages[1].time.total / run(512, nothing).stages[1].time.total
    assert 1.9 < ratio < 2
    doubled = run(1024, facts).stages[1]
    assert doubled.step_seconds == pytest.approx(1.75 * ratio)
    assert str(doubled.measured) == "measured (batch.micro_batch_size=16, scaled to this step as planned)"


def test_words_in_another_share_of_steps_grow_as_planned(tmp_path: Path) -> None:
    overrides = ["pretrain.align_every=4", "pretrain.align_words_per_step=1000", "batch.micro_batch_size=16"]
    found = steps(2.5, 1.75)
    found["pretrain"]["words_per_step"] = 400  # two of five measured steps, which is more than one of four
    facts = measured(tmp_path, row(overrides, found, 16))
    own = stage_of(load_recipe("real_1p3b", overrides), "pretrain")
    load = StageLoad("pretrain", replace(Workload.of(own), sequences=4 * 16 * 8), 9000)
    (cost,) = run_cost([load], [Layout.of(own)], H100, RATES, facts=facts).stages
    assert cost.step_seconds < 1.75
    assert str(cost.measured).endswith("batch.micro_batch_size=16, scaled to this step as planned)")


@pytest.mark.parametrize(
    "changes", [{"zero_stage": 2}, {"micro_batch_size": 8}, {"recompute": 2}, {"wide_exchange": False}]
)
def test_other_layouts_are_planned(changes: dict[str, Any], tmp_path: Path) -> None:
    facts = measured(tmp_path, row(["batch.micro_batch_size=16"], steps(2.5, 1.75), 16))
    assert run(512, facts, **changes).stages[1].measured is None


def test_auto_is_what_it_comes_to(tmp_path: Path) -> None:
    """Of ZeRO 3 nothing is compiled, whether a recipe says so or leaves it open."""
    fitting = row([ZERO_3, "batch.micro_batch_size=8"], steps(2, 2), 8)
    failed = [ZERO_3, "parallel.word_activation_checkpointing=none", "batch.micro_batch_size=16"]
    facts = measured(tmp_path, fitting, row(failed, OOM, 16))
    assert run(1024, facts, zero_stage=3, overlap=True, micro_batch_size=8, compile=False).stages[1].measured
    searched = [
        chosen
        for chosen in planner._candidates(loads_of(1024), LAYOUTS, H100)
        for layout in chosen[1:]
        if (layout.zero_stage, layout.tensor_size, layout.micro_batch_size, layout.recompute) == (3, 1, 16, None)
        and layout.recompute_words is None
    ]
    assert searched
    assert all(run_cost(loads_of(1024), chosen, H100, RATES, facts=facts).too_large for chosen in searched)


@pytest.mark.parametrize("compiled", [True, False])
def test_what_was_compiled_is_a_fact_of_what_is(compiled: bool, tmp_path: Path) -> None:
    """Under `auto`, whose trial may fail; records of before do not say it."""
    found = steps(2.5, 1.75)
    found["pretrain"]["compiled"] = compiled
    facts = measured(tmp_path, row(["batch.micro_batch_size=16"], found, 16))
    taken = {value: run(512, facts, compile=value).stages[1].measured is not None for value in (True, False, "auto")}
    assert taken == {True: compiled, False: not compiled, "auto": compiled}
    old = measured(tmp_path, row(["batch.micro_batch_size=16"], steps(2.5, 1.75), 16))
    assert run(512, old, compile=True).stages[1].measured is not None


def test_fp8_is_measured_for_fp8_alone(tmp_path: Path) -> None:
    facts = measured(tmp_path, row(["parallel.precision=fp8", "batch.micro_batch_size=16"], steps(2.5, 0.5), 16))
    align, pretrain = run(512, facts).stages
    assert align.measured is not None  # which computes in bf16 in any case
    assert pretrain.measured is None
    assert run(512, facts, fp8=True).stages[1].measured is not None
    stage = stage_of(load_recipe("real_1p3b", ["parallel.precision=fp8"]), "pretrain")
    assert Layout.of(stage) == replace(LAYOUTS[1], fp8=True)


def test_other_clusters_and_steps_are_planned(tmp_path: Path) -> None:
    facts = measured(tmp_path, row(["batch.micro_batch_size=16"], steps(2.5, 1.75), 16))
    assert run(1024, facts, Cluster.of("h100", 16)).stages[1].measured is None
    other = measured(tmp_path, row(["model.layers=12", "batch.micro_batch_size=16"], steps(2.5, 1.75), 16))
    assert run(512, other).stages[1].measured is None


def overrides_of(layout: Layout) -> list[str]:
    """Of a layout without recomputation."""
    assert (layout.recompute, layout.recompute_words) == (None, None)
    return [
        f"parallel.zero_stage={layout.zero_stage}",
        f"parallel.tensor_parallel_size={layout.tensor_size}",
        "parallel.activation_checkpointing=none",
        "parallel.word_activation_checkpointing=none",
        f"batch.micro_batch_size={layout.micro_batch_size}",
    ]


def test_what_was_out_of_memory_is_not_recommended(tmp_path: Path) -> None:
    planned = recommend(loads_of(1024), LAYOUTS, H100, RATES).best
    assert planned is not None
    layout = planned.stages[-1].layout
    slow = row([ZERO_3, "batch.micro_batch_size=1"], steps(9, 9), 1)
    best = found(tmp_path, slow, row(overrides_of(layout), OOM, layout.micro_batch_size)).best
    assert best is not None
    assert best.stages[-1].layout != layout
    assert not best.too_large


def test_what_takes_as_much_memory_is_ruled_out(tmp_path: Path) -> None:
    fitting = row(["parallel.zero_stage=1", "batch.micro_batch_size=8"], steps(2, 2), 8)
    facts = measured(tmp_path, fitting, row(["parallel.zero_stage=1", "batch.micro_batch_size=16"], OOM, 16))

    def failed(**changes: Any) -> bool:
        return run(1024, facts, **changes).too_large

    assert failed()
    assert failed(micro_batch_size=32)
    assert failed(recompute_words=None)
    assert not failed(micro_batch_size=8)
    assert not failed(recompute=2)
    assert not failed(zero_stage=3)
    assert not run(1024, facts, Cluster.of("h100", 16)).too_large
    assert not run(16 * 8, facts).too_large  # a single micro-batch, whose gradients no fp32 sum needs


def test_a_stage_that_the_run_has_not_says_nothing_of_it(tmp_path: Path) -> None:
    """The align stage takes more than the pretrain stage: that both were out of memory rules out none of the latter."""
    rows = [row(["batch.micro_batch_size=8"], steps(2, 2), 8), row(["batch.micro_batch_size=16"], OOM, 16)]
    only = loads_of(1024)[1:]
    assert not run_cost(only, LAYOUTS[1:], H100, RATES, facts=measured(tmp_path, *rows)).too_large
    words = command("--pretrain")
    rows = [
        row(["batch.micro_batch_size=8"], {"pretrain": stage(2)}, 8, words=words),
        row(["batch.micro_batch_size=16"], OOM, 16, words=words),
    ]
    assert run_cost(only, LAYOUTS[1:], H100, RATES, facts=measured(tmp_path, *rows)).too_large


def test_the_fastest_that_was_measured_is_recommended(tmp_path: Path) -> None:
    """Though no search tries it: three rows, every third block."""
    overrides = [ZERO_3, "parallel.activation_checkpointing=3", "batch.micro_batch_size=4", "parallel.precision=bf16"]
    best = found(tmp_path, row(overrides, steps(0.02, 0.02), 4)).best
    assert best is not None
    assert best.stages[1].layout.recompute == 3
    assert best.stages[1].measured is not None
    assert best.stages[1].measured.overrides == tuple(overrides)


@pytest.mark.parametrize("fewer", ["deepspeed={communication_data_type: bf16}", "parallel.precision=fp8"])
def test_numbers_stay_as_wide(fewer: str, tmp_path: Path) -> None:
    """What has fewer bits bears on what is learned."""
    best = found(tmp_path, row([fewer, "batch.micro_batch_size=4"], steps(0.02, 0.02), 4)).best
    assert best is not None
    assert best.stages[1].measured is None


def test_a_slow_layout_is_not_recommended(tmp_path: Path) -> None:
    planned = recommend(loads_of(1024), LAYOUTS, H100, RATES).best
    assert planned is not None
    layout = planned.stages[-1].layout
    times = [2 * stage.time.total for stage in run(1024, Facts(), zero_stage=layout.zero_stage).stages]
    chosen = found(tmp_path, row(overrides_of(layout), steps(*times), layout.micro_batch_size))
    assert chosen.best is not None
    assert chosen.best.stages[-1].layout != layout
    assert chosen.measured is not None
    assert chosen.measured.stages[-1].layout == layout
