"""What a stage trains with, on as many ranks as there are."""

import pytest

from prealign.config import load_recipe
from prealign.config.stage import STAGES, stage_of
from prealign.errors import UserError
from prealign.training.plan import micro_batch_note

ON_CLUSTERS = ["real_150m", "real_400m", "real_1p3b", "real_2p7b", "real_6p7b", "real_13b", "llama_1p3b"]


@pytest.mark.parametrize("name", ON_CLUSTERS)
@pytest.mark.parametrize("ranks", [1, 8, 64, 512])
def test_micro_batches_follow_the_ranks(name: str, ranks: int) -> None:
    recipe = load_recipe(name)
    groups = max(1, ranks // recipe.parallel.tensor_parallel_size)
    for stage in (stage_of(recipe, each, groups) for each in STAGES):
        batch = stage.recipe.batch
        assert batch.micro_batch_size <= recipe.batch.micro_batch_size
        passes = stage.recipe.accumulation(groups)
        assert passes * batch.micro_batch_size * groups == batch.global_batch_size


def test_few_rows_a_pass_are_said() -> None:
    recipe = load_recipe("real_1p3b", ["batch.global_batch_size=1016"])
    note = micro_batch_note(stage_of(recipe, "pretrain", 8), recipe, 8)
    assert note is not None
    assert "1 sequences a forward pass, as no larger number up to batch.micro_batch_size=16" in note
    assert "divides a rank's 127" in note
    whole = load_recipe("real_1p3b")
    assert not any(micro_batch_note(stage_of(whole, "pretrain", ranks), whole, ranks) for ranks in (1, 8, 512))


def test_more_ranks_than_sequences_are_refused() -> None:
    recipe = load_recipe("real_1p3b", ["batch.global_batch_size=96"])
    with pytest.raises(UserError, match="batch: found global_batch_size=96 on 512 ranks; expected a multiple of 512"):
        stage_of(recipe, "pretrain", 512)
