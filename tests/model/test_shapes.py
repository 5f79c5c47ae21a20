"""The list of parameters is the model's, for every kind of block and every number of tensor ranks."""

from pathlib import Path

import pytest
import torch

from prealign.distributed.tensor_parallel import Shard
from prealign.model.shapes import parameter_shapes, product_shapes
from prealign.objectives.joint import JointModel
from tests.conftest import tiny_recipe
from tests.model.families import FAMILIES


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family: str, tied: bool) -> None:
    options = {"layers": 2, "hidden_size": 32, "heads": 4, "tied_embeddings": tied} | FAMILIES[family]
    recipe = tiny_recipe(Path("no-data"), model=options)
    with torch.device("meta"):
        model = JointModel(recipe)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameter_shapes(recipe.model, recipe.padded_vocab_size) == expected
    assert list(parameter_shapes(recipe.model, recipe.padded_vocab_size)) == list(expected)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
def test_tensor_ranks_hold_parts(family: str, ranks: int) -> None:
    model = tiny_recipe(Path("no-data"), model={"heads": 4} | FAMILIES[family]).model
    whole, parts = parameter_shapes(model, 128), parameter_shapes(model, 128, ranks)
    for name, shape in parts.items():
        if ".kv." in name and ranks == 4:  # two heads, which every rank holds
            assert shape == whole[name]
            continue
        shard = Shard.of(name, shape[0], 0, ranks)
        assert shard.whole_shape(name, torch.Size(shape)) == list(whole[name]), name


def test_tensor_ranks_compute_one_head_of_keys_and_values() -> None:
    model = tiny_recipe(Path("no-data"), model={"heads": 4} | FAMILIES["llama"]).model
    assert [product_shapes(model, ranks)[1] for ranks in (1, 2, 4)] == [(32, 32), (16, 32), (16, 32)]
