"""The recommended layout fits, divides, and no other that fits is faster by more than a percent."""

from dataclasses import replace

import pytest

from prealign.config import load_recipe
from prealign.config.stage import stage_of
from prealign.errors import UserError
from prealign.model.flops import infonce_flops, text_token_flops, word_token_flops
from prealign.planning import planner
from prealign.planning.cluster import Cluster
from prealign.planning.cost import StageLoad, run_cost, step_flops
from prealign.planning.layout import Layout, Workload
from prealign.planning.planner import Recommendation, layout_words, limits, recommend
from prealign.planning.rates import rates_of


def found(recipe: str, gpus: int, device: str = "h100", *overrides: str) -> Recommendation:
    loads, layouts, cluster = parts(recipe, gpus, device, *overrides)
    return recommend(loads, layouts, cluster, rates_of(cluster.device))


def parts(recipe: str, gpus: int, device: str, *overrides: str) -> tuple[list[StageLoad], list[Layout], Cluster]:
    stages = [stage_of(load_recipe(recipe, overrides), name) for name in ("align", "pretrain")]
    loads = [StageLoad(stage.name, Workload.of(stage), steps) for stage, steps in zip(stages, (482, 9150))]
    return loads, [Layout.of(stage) for stage in stages], Cluster.of(device, gpus)


@pytest.mark.parametrize(("recipe", "gpus"), [("real_150m", 8), ("real_1p3b", 64), ("real_13b", 16), ("llama_8b", 32)])
def test_the_best_is_the_best(recipe: str, gpus: int) -> None:
    loads, layouts, cluster = parts(recipe, gpus, "h100")
    rates = rates_of(cluster.device)
    best = recommend(loads, layouts, cluster, rates).best
    assert best is not None
    assert best.fits
    others = [run_cost(loads, chosen, cluster, rates) for chosen in planner._candidates(loads, layouts, cluster)]
    assert best.seconds <= 1.01 * min(cost.seconds for cost in others if cost.fits)


def test_a_small_card_needs_more() -> None:
    """1.3B: an H100 keeps what a card of 24 GB must recompute or shard."""
    large, small = found("real_1p3b", 8).best, found("real_1p3b", 8, "rtx4090").best
    assert large is not None
    assert small is not None
    assert small.peak.memory.peak <= 0.93 * 24e9
    assert small.stages[-1].layout != large.stages[-1].layout
    assert found("real_13b", 1, "rtx4090").best is None
    smallest = found("real_13b", 1, "rtx4090").smallest
    assert smallest is not None
    assert not smallest.fits


def test_what_limits_is_said() -> None:
    assert limits(found("real_13b", 8))[0].startswith("memory: ")
    assert limits(found("real_150m", 64))[-1].startswith("matrix products")


def test_a_layout_is_called_compiled_where_it_is() -> None:
    _, (_, pretrain), _ = parts("real_1p3b", 8, "h100")
    assert layout_words(pretrain).endswith(", compiled")
    assert "compiled" not in layout_words(replace(pretrain, zero_stage=3))
    assert "compiled" not in layout_words(replace(pretrain, tensor_size=2))


def test_every_stage_divides_its_batch() -> None:
    """The align stage may have a batch of its own."""
    best = found("real_1p3b", 64, "h100", "align.global_batch_size=128").best
    assert best is not None
    align, pretrain = best.stages
    assert align.layout.micro_batch_size in (1, 2)
    assert pretrain.layout.micro_batch_size >= align.layout.micro_batch_size
    assert found("real_1p3b", 16_384).best is None  # more groups than rows, whatever is split


def test_the_recipes_own_batch() -> None:
    loads, layouts, cluster = parts("real_1p3b", 512, "h100")
    planned = run_cost(loads, layouts, cluster, rates_of(cluster.device))
    assert [stage.layout.micro_batch_size for stage in planned.stages] == [2, 2]  # the recipe's 16, at most
    loads, layouts, cluster = parts("real_1p3b", 48, "h100")
    with pytest.raises(UserError, match=r"align: found global_batch_size=1024 on 48 groups of ranks; expected a multi"):
        run_cost(loads, layouts, cluster, rates_of(cluster.device))
    with pytest.raises(UserError, match=r"tensor_parallel_size=2 x sequence_parallel_size=1 on 7 GPUs"):
        replace(layouts[0], tensor_size=2).data_size(7)
    with pytest.raises(UserError, match=r"--gpus: found 12 with 8 a node"):
        Cluster.of("h100", 12)


def test_tensor_ranks_of_few_heads_of_keys_and_values() -> None:
    """Of 1, 2, 4 and 8 ranks those that divide them, or that they divide."""

    def tried(*overrides: str) -> set[int]:
        loads, layouts, cluster = parts("llama_150m", 8, "h100", *overrides)
        return {chosen[0].tensor_size for chosen in planner._candidates(loads, layouts, cluster)}

    assert tried("model.qk_norm=true", "model.kv_heads=2") == {1, 2, 4, 8}
    assert tried("model.heads=16", "model.kv_heads=1") == {1, 2, 4, 8}
    assert tried("model.hidden_size=768", "model.heads=24", "model.kv_heads=6") == {1, 2}


def test_operations_are_those_of_mfu() -> None:
    recipe = load_recipe("real_1p3b")
    work = Workload.of(stage_of(recipe, "align"))
    words = work.words * work.tokens_per_word * word_token_flops(recipe) + infonce_flops(recipe, work.words)
    assert step_flops(work) == pytest.approx(1024 * 1024 * text_token_flops(recipe) + words)


def test_energy_and_money() -> None:
    loads, layouts, cluster = parts("real_1p3b", 64, "h100")
    cost = run_cost(loads, layouts, cluster, rates_of(cluster.device), price=2.0)
    assert cost.gpu_hours == pytest.approx(64 * cost.seconds / 3600)
    assert cost.kilowatt_hours == pytest.approx(0.7 * cost.gpu_hours)
    assert cost.money == pytest.approx(2 * cost.gpu_hours)
