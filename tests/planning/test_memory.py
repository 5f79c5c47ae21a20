"""A peak is that of one moment, and what fits is a question of it."""

from dataclasses import replace
from typing import Any

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from prealign.config import load_recipe
from prealign.config.stage import stage_of
from prealign.kernels import distributed, square, symmetric_triton
from prealign.kernels.symmetric import FEW_FOR_TRIANGLE
from prealign.model.shapes import parameter_count
from prealign.objectives import cross_entropy
from prealign.planning import memory as planned
from prealign.planning.layout import Layout, Workload
from prealign.planning.memory import Memory, memory, takes_triangle

RECIPE = load_recipe("real_1p3b")
TEXT = Workload.of(stage_of(RECIPE, "pretrain"))
WORDS = Workload.of(stage_of(RECIPE, "align"))
LAYOUT = Layout.of(stage_of(RECIPE, "pretrain"))


def used(work: Workload = TEXT, gpus: int = 8, **changes: Any) -> Memory:
    return memory(work, replace(LAYOUT, **changes), gpus)


def test_parts_of_a_run_on_one_card() -> None:
    """By hand: 1.4157B parameters; 16 x 1,024 tokens of 24 blocks; 50,048 logits a token in bf16."""
    parts = used(gpus=1).parts
    count = parameter_count(RECIPE)
    assert count == 1_415_696_384
    assert (parts["weights"], parts["optimizer"]) == (2 * count, 12 * count)
    assert parts["activations"] == pytest.approx(16 * 1024 * 24 * 32 * 2048, rel=0.01)
    gradients = 4 * 50_048 * 2048 + 2 * 16 * 1024 * 2048
    assert parts["logits"] == 2 * 16 * 1024 * 50_048 + gradients
    assert parts["gradients"] == 4 * count  # they add up in fp32
    assert parts["step"] == 4 * 500_000_000
    narrow = used(gpus=1, wide_gradients=False).parts
    assert narrow["gradients"] == 2 * count
    assert narrow["step"] == pytest.approx(6 * count, rel=0.01)


def test_tensor_ranks_share_the_vocabulary_that_they_divide() -> None:
    whole, halves = used().parts, used(tensor_size=2).parts
    assert halves["logits"] == whole["logits"] / 2 + 16 * 1024 * 2048  # the gradient of hidden states stays whole
    odd = replace(TEXT, vocab_size=TEXT.vocab_size + 1)
    assert used(odd, tensor_size=2).parts["logits"] == used(odd).parts["logits"] > whole["logits"]


def test_limits_are_those_of_what_is_planned() -> None:
    """Planning imports no torch, so it has copies of them."""
    assert planned._FUSED_LOGITS == cross_entropy._FUSED_LOGITS
    assert planned._WORKSPACE == square.WORKSPACE_ELEMENTS
    assert planned._TRIANGLE == symmetric_triton.LARGEST_MATRIX
    assert planned._TRIANGLE_TAU == symmetric_triton.SMALLEST_TAU
    assert planned._TRIANGLE_ANCHORS == FEW_FOR_TRIANGLE
    for words, gpus in ((100, 2), (4096, 8), (4097, 64), (4096, 512), (16_384, 512), (262_144, 64)):
        expected = distributed.layers_a_gather(26, words, 2048, 2, gpus)
        assert planned.layers_a_gather(replace(WORDS, words=words), LAYOUT, gpus) == expected
    zero = DeepSpeedZeroConfig()
    assert (planned._LIVE, LAYOUT.bucket) == (zero.max_live_parameters, zero.reduce_bucket_size)


def test_the_peak_is_of_one_moment() -> None:
    found = used(WORDS, gpus=1)
    assert found.peak == max(found.phases.values()) == found.phases[found.when]
    assert found.peak < sum(found.parts.values())
    assert used(gpus=1, recompute=1, micro_batch_size=1, wide_gradients=False).when == "the optimizer step"
    assert used(gpus=1, compile=False).when == "the LM loss"


def test_a_compiled_backward_pass_hands_over_all_gradients_at_once() -> None:
    """In bf16, beside those that add up, and whatever ZeRO shards; of a tensor rank's share."""
    for changes in ({"zero_stage": 0}, {"zero_stage": 1}, {"zero_stage": 2}):
        plain, compiled = (used(**changes, compile=compile).phases for compile in (False, True))
        assert compiled["the backward pass"] - plain["the backward pass"] == 2 * parameter_count(RECIPE)
        assert {**compiled, "the backward pass": 0} == {**plain, "the backward pass": 0}
    assert used(zero_stage=1, bf16=False, compile=True).parts["pass's gradients"] == 4 * parameter_count(RECIPE)
    halves = used(tensor_size=2, compile=True).parts["pass's gradients"]
    assert halves == pytest.approx(parameter_count(RECIPE), rel=0.01)


def test_sharding_more_takes_less() -> None:
    peaks = [used(gpus=64, zero_stage=stage).peak for stage in (0, 1)]
    assert peaks == sorted(peaks, reverse=True)
    assert used(gpus=64, zero_stage=3).parts["weights"] < used(gpus=64, zero_stage=1).parts["weights"] / 10
    assert used(gpus=64, zero_stage=2).parts["gradients"] < used(gpus=64, zero_stage=1).parts["gradients"] / 2


def test_recomputation_keeps_inputs_alone() -> None:
    assert used(recompute=1).parts["activations"] == pytest.approx(used().parts["activations"] / 16, rel=0.05)
    assert used(recompute=2).peak < used().peak


def test_words_are_shared_and_gathered() -> None:
    alone, many = used(WORDS, 1).parts, used(WORDS, 8).parts
    assert alone["word vectors"] == 2 * 26 * 16_384 * 2048 * 2
    assert many["word vectors"] == alone["word vectors"] / 8
    assert many["gathered vectors"] == 2 * 16_384 * 2048 * 2
    assert "gathered vectors" not in alone
    few = used(replace(WORDS, words=4096), 512).parts  # 26 layers in one gather, and one put together
    assert few["gathered vectors"] == 27 * 4096 * 2048 * 2


@pytest.mark.parametrize(("words", "gpus", "most"), [(65_536, 8, 1.2), (262_144, 64, 3.0)])
def test_many_words_fit(words: int, gpus: int, most: float) -> None:
    """GB a card for 26 layers of size 2048, beside its own words' vectors and their gradients: two gathered layers
    (0.54 or 2.15), 0.27 for ``G``, a gradient in fp32, bits."""
    parts = used(replace(WORDS, words=words), gpus).parts
    assert parts["word vectors"] == 2 * 26 * words / gpus * 2048 * 2
    assert parts["gathered vectors"] == 2 * words * 2048 * 2
    assert parts["gathered vectors"] + parts["kernel workspace"] < most * 1e9
    assert takes_triangle(WORDS, LAYOUT, 1)
    assert not takes_triangle(replace(WORDS, tau=0.01), LAYOUT, 1)


def test_offloaded_state_is_in_host_memory() -> None:
    found = used(offload=True)
    assert "optimizer" not in found.parts
    assert found.host == used().parts["optimizer"]
