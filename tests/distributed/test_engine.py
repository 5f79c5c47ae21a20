"""A model as it is built for training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prealign.distributed.engine import build_model
from prealign.distributed.world import World
from prealign.model.initialisation import initial_value
from tests.conftest import tiny_recipe
from tests.model.families import FAMILIES


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parameters_are_made_one_by_one_in_their_precision(precision: str, tied: bool) -> None:
    recipe = tiny_recipe(
        Path("no-data"),
        parallel={"precision": precision, "zero_stage": 1},
        model={"layers": 2, "hidden_size": 32, "heads": 2, "context": 32, "tied_embeddings": tied},
    )
    allocated: list[str] = []

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        allocated.append(name)
        return initial_value(name, shape, recipe)

    model = build_model(recipe, World(0, 1, torch.device("cpu")), value)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    parameters = dict(model.named_parameters())
    assert allocated == [*parameters]
    for name, parameter in parameters.items():
        assert (parameter.dtype, parameter.device) == (dtype, torch.device("cpu"))
        assert torch.equal(parameter, initial_value(name, parameter.shape, recipe).to(dtype))
    assert (model.head.weight is model.gpt.embedding.tokens.weight) == tied


@pytest.mark.parametrize("family", FAMILIES)
def test_no_model_has_buffers(family: str) -> None:
    """Of which `to_empty` would lose the values."""
    recipe = tiny_recipe(
        Path("no-data"), model={"layers": 2, "hidden_size": 32, "heads": 4, "context": 32} | FAMILIES[family]
    )
    model = build_model(recipe, World(0, 1, torch.device("cpu")), lambda name, shape: torch.zeros(shape))
    assert not [*model.buffers()]


def test_it_is_made_on_the_device() -> None:
    """Where that is ``meta``, nothing is allocated: what the host holds is the value that is being copied."""
    recipe = tiny_recipe(Path("no-data"))
    world = World(0, 1, torch.device("meta"))
    model = build_model(recipe, world, lambda name, shape: torch.empty(shape, device="meta"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    split = build_model(recipe, replace(world, world_size=2, tp_size=2), lambda name, shape: torch.zeros(shape))
    assert {parameter.device.type for parameter in split.parameters()} == {"cpu"}
