"""Seconds of a step: against the one that was measured, and in how they change."""

import json
from dataclasses import replace
from typing import Any

import pytest

from prealign.config import load_recipe
from prealign.config.stage import stage_of
from prealign.planning.cluster import Cluster
from prealign.planning.cost import step_flops
from prealign.planning.layout import Layout, Workload
from prealign.planning.rates import committed_records, rates_of
from prealign.planning.timing import StepTime, step_time

H100 = Cluster.of("h100", 1)
RATES = rates_of(H100.device)
WORK = Workload.of(stage_of(load_recipe("real_1p3b"), "pretrain"))
LAYOUT = Layout.of(stage_of(load_recipe("real_1p3b"), "pretrain"))


def timed(gpus: int = 8, work: Workload = WORK, **changes: Any) -> StepTime:
    return step_time(work, replace(LAYOUT, **changes), Cluster.of("h100", gpus), RATES)


def test_a_measured_step() -> None:
    """1.3B with full recomputation and a loss that was not fused, on one card: the row on which the rates of
    elementwise kernels and of the optimizer were set; those of products and attention are of `ceilings`."""
    (path,) = [path for path in committed_records(H100.device) if path.name == "1p3b_recipe.json"]
    measured = json.loads(path.read_text())
    work = replace(WORK, sequences=measured["global_batch_size"], fused_cross_entropy=False)
    layout = replace(LAYOUT, micro_batch_size=measured["micro_batch_size"], recompute=1)
    planned = step_time(work, layout, H100, RATES).total
    stage = measured["stages"]["pretrain"]
    assert planned == pytest.approx(stage["seconds_per_step"], rel=0.05)
    assert step_flops(work) / planned / H100.device.peak == pytest.approx(stage["mfu"], abs=0.02)


def test_recomputation_takes_another_forward_pass() -> None:
    kept, again = timed().seconds, timed(recompute=1).seconds
    blocks = (again["matrix products"] - kept["matrix products"]) * 3
    assert blocks < kept["matrix products"]  # the head is not recomputed
    assert blocks == pytest.approx(kept["matrix products"], rel=0.15)
    assert again["attention"] / kept["attention"] == pytest.approx(4.5 / 3.5)
    assert timed(recompute=2).total == pytest.approx((timed().total + timed(recompute=1).total) / 2, rel=0.01)


def test_arithmetic_is_shared_and_communication_is_not() -> None:
    few, many = timed(8), timed(64)
    assert many.seconds["matrix products"] == pytest.approx(few.seconds["matrix products"] / 8)
    assert many.seconds["communication"] > few.seconds["communication"] > timed(1).seconds["communication"] == 0


def test_what_computation_hides() -> None:
    alone, beside = timed(64, compile=False), timed(64, overlap=True, compile=False)
    assert beside.hidden > 0 == alone.hidden
    assert beside.seconds["communication"] < alone.seconds["communication"]
    assert timed(64, zero_stage=2).seconds["communication"] == pytest.approx(alone.seconds["communication"], rel=0.01)
    for stage in (0, 1, 2):  # a compiled backward pass hands over no gradient before it ends
        assert timed(64, zero_stage=stage, overlap=True, compile=True).hidden == 0
    assert timed(64, zero_stage=2, overlap=True, compile=False).hidden > 0
    assert timed(8, zero_stage=2).seconds["communication"] > 2 * timed(8).seconds["communication"]  # every micro-batch


def test_every_collective_takes_longer_of_more_ranks() -> None:
    """However small it is: ZeRO-3's of every block too, three a pass."""
    small = replace(WORK, sequences=512)

    def communication(gpus: int) -> float:
        cluster = replace(Cluster.of("h100", gpus), link=1e18, network=1e18)  # whose bytes take no time
        layout = replace(LAYOUT, zero_stage=3, overlap=False, micro_batch_size=1)
        return step_time(small, layout, cluster, RATES).seconds["communication"]

    blocks = 3 * small.model.layers
    assert communication(512) == pytest.approx((blocks + 3) * 9 * 20e-6, rel=0.01)
    assert communication(8) / 64 == pytest.approx((blocks + 3) * 3 * 20e-6, rel=0.01)  # 64 passes


def test_tensor_ranks_halve_products_and_the_head_where_they_divide_it() -> None:
    odd = replace(WORK, vocab_size=WORK.vocab_size + 1)
    whole, halves, without_head = (
        timed(8, work, tensor_size=size).seconds for work, size in ((WORK, 1), (WORK, 2), (odd, 2))
    )
    assert halves["attention"] == pytest.approx(whole["attention"])  # half a rank's heads, twice the micro-batches
    assert halves["matrix products"] == pytest.approx(whole["matrix products"], rel=0.01)
    assert halves["cross-entropy"] == pytest.approx(whole["cross-entropy"], rel=0.01)
    head = 6 * WORK.sequences * 1024 * WORK.vocab_size * 2048 / 8 / RATES.products
    assert without_head["matrix products"] - whole["matrix products"] == pytest.approx(head, rel=0.01)
    assert without_head["optimizer"] > 1.05 * halves["optimizer"]
    assert halves["communication"] > without_head["communication"] > whole["communication"]


def test_words_take_time_in_the_steps_that_have_them() -> None:
    align = Workload.of(stage_of(load_recipe("real_1p3b"), "align"))
    every = timed(8, align).total - timed(8).total
    fourth = timed(8, replace(align, words_every=4)).total - timed(8).total
    assert every > 0
    assert fourth == pytest.approx(every / 4, rel=0.02)
    assert timed(1, align).seconds["alignment loss"] == pytest.approx(0.096, rel=0.1)  # 26 layers x 16,384 words: 96 ms


def test_launches_bound_small_models() -> None:
    demo = load_recipe("enclone_demo", ["align.words_per_step=64", "align.coverage=null"])
    stage = stage_of(demo, "pretrain")
    layout = replace(Layout.of(stage), compile=False)
    small = step_time(Workload.of(stage), layout, H100, RATES)
    assert small.seconds["launches"] > small.total / 2
    compiled = step_time(Workload.of(stage), replace(layout, compile=True), H100, RATES)
    assert 0 < compiled.seconds["launches"] < small.seconds["launches"]
    assert timed().seconds["launches"] == 0


def test_auto_is_compiled_where_a_run_would_be() -> None:
    """Whatever layout a search tries, from whatever recipe."""
    (align, pretrain) = (Layout.of(stage_of(load_recipe("real_13b"), name)) for name in ("align", "pretrain"))
    assert not align.compiled
    assert not pretrain.compiled  # ZeRO 3
    assert replace(pretrain, zero_stage=1).compiled
    assert not replace(pretrain, zero_stage=1, tensor_size=2).compiled
    kept = load_recipe("real_1p3b", ["pretrain.align_every=8"])
    assert not Layout.of(stage_of(kept, "pretrain")).compiled
    assert LAYOUT.compiled
    assert timed().total < timed(compile=False).total
