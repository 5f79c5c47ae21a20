"""Words of steps from a loading process are those that are drawn in place."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from prealign.config.stage import align_stage
from prealign.data.prepared import open_data
from prealign.distributed.world import World
from prealign.kernels.rank_plan import RankPlan
from prealign.objectives.inputs import WordInputs, word_inputs
from prealign.training.step_words import StepWords, step_words, words_of
from prealign.training.words import word_batches
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE


def tensors_of(inputs: WordInputs) -> list[torch.Tensor]:
    assert inputs.relations is not None
    lists = (*inputs.relations.positives, *inputs.relations.ignored, inputs.relations.anchor_weight)
    return [inputs.ids, inputs.positions, inputs.spans.starts, inputs.spans.lengths, *lists]


def drawn(data_dir: Path, world: World, steps: Sequence[int], workers: int) -> list[StepWords]:
    stage = align_stage(tiny_recipe(data_dir))
    return list(step_words(word_batches(stage, open_data(stage.recipe)), world, steps, workers))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_process_draws_what_is_drawn_in_place(data_dir: Path, workers: int) -> None:
    stage, steps = align_stage(tiny_recipe(data_dir)), range(3, 15, 4)
    batches = word_batches(stage, open_data(stage.recipe))
    found = drawn(data_dir, ONE, steps, workers)
    assert len(found) == 3
    for step, words in zip(steps, found):
        batch = batches.batch(step)
        expected = word_inputs(batch, 0, 1)
        assert words.count == len(batch) == len(words.inputs.spans.lengths)
        assert words.tokens == batch.tokens_per_language()
        assert sum(words.tokens.values()) == len(words.inputs.ids)
        assert words.inputs.groups == expected.groups
        for one, other in zip(tensors_of(words.inputs), tensors_of(expected)):
            assert torch.equal(one, other)


def test_no_steps_no_words(data_dir: Path) -> None:
    assert drawn(data_dir, ONE, range(0), 1) == []


def test_a_plan_is_made_on_request_and_moves_along(data_dir: Path) -> None:
    """What GPUs get: `words_of` asks for it there."""
    stage = align_stage(tiny_recipe(data_dir))
    batch = word_batches(stage, open_data(stage.recipe)).batch(0)
    planned = word_inputs(batch, 0, 1, plans=True)
    assert planned.relations is not None
    assert planned.relations.plan is not None
    moved = planned.to(torch.device("meta"))
    assert moved.ids.device.type == "meta"
    assert moved.relations is not None
    assert moved.relations.plan is not None
    assert {tensor.device.type for tensor in moved.relations.plan.tensors()} == {"meta"}
    second = word_inputs(batch, 1, 2, plans=True).relations
    assert second is not None
    assert isinstance(second.plan, RankPlan)
    assert (second.plan.begin, second.plan.count) == (len(batch) // 2, len(batch) // 2)
    relations = words_of(batch, ONE, include_self=False).inputs.relations
    assert relations is not None
    assert relations.plan is None
