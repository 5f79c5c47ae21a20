"""Products in fp8: what is handed to torchao, which a stub stands in for, and what is refused."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from prealign.config import Recipe
from prealign.config.stage import pretrain_stage, stage_of
from prealign.distributed.engine import build_model
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.evaluation.loading import load_model
from prealign.model.initialisation import initial_value
from prealign.planning.layout import Layout
from prealign.training.compilation import prepare_passes
from prealign.training.fp8 import check_fp8, use_fp8
from tests.conftest import tiny_recipe
from tests.distributed import engines
from tests.processes import finish, on_ranks, start, train_arguments

LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "kv_heads": 1, "ffn_size": 64}


def fp8_recipe(precision: str = "fp8", **changes: Any) -> Recipe:
    parallel = {"precision": precision} | changes.pop("parallel", {})
    return tiny_recipe(Path("no-data"), parallel=parallel, **changes)


class Float8Linear(nn.Linear):
    """As torchao's: the parameters of the layer whose place it takes, in products of its own."""

    @classmethod
    def of(cls, layer: nn.Linear) -> "Float8Linear":
        with torch.device("meta"):
            new = cls(layer.in_features, layer.out_features, bias=False)
        new.weight, new.bias = layer.weight, layer.bias
        return new


def stub() -> dict[str, ModuleType]:
    """torchao for `sys.modules`; its ``converted`` has the names of layers."""
    package, module = ModuleType("torchao"), ModuleType("torchao.float8")
    package.float8 = module  # type: ignore[attr-defined]
    module.converted = []  # type: ignore[attr-defined]

    def convert_to_float8_training(model: nn.Module, *, module_filter_fn: Any) -> nn.Module:
        for name, layer in [*model.named_modules()]:
            if isinstance(layer, nn.Linear) and module_filter_fn(layer, name):
                module.converted.append(name)
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Float8Linear.of(layer))
        return model

    module.convert_to_float8_training = convert_to_float8_training  # type: ignore[attr-defined]
    return {"torchao": package, "torchao.float8": module}


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ({}, ["attention.qkv", "attention.out", "mlp.up", "mlp.down"]),
        (LLAMA, ["attention.q", "attention.out", "mlp.gate", "mlp.up", "mlp.down"]),
    ],
    ids=["gpt2", "llama"],
)
def test_layers_of_blocks_are_converted_and_parameters_stay(model: dict[str, Any], layers: list[str]) -> None:
    sizes = {"layers": 2, "hidden_size": 32, "heads": 2, "context": 32}
    recipe = fp8_recipe(model=sizes | model)
    built = build_model(recipe, World(0, 1, torch.device("cpu")), lambda n, s: initial_value(n, s, recipe))
    before = dict(built.named_parameters())
    assert {parameter.dtype for parameter in before.values()} == {torch.bfloat16}
    modules = stub()
    with mock.patch.dict(sys.modules, modules):
        use_fp8(built)
    found = modules["torchao.float8"].converted
    assert sorted(found) == sorted(f"gpt.blocks.{block}.{layer}" for block in (0, 1) for layer in layers)
    after = dict(built.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())


def losses_of(rank: int, ranks: int, precision: str) -> tuple[list[float], list[str], int, str]:
    """Losses of three steps, lines, layers that were converted, and the digest of the engine's state."""
    world = engines.world_of(rank, ranks)
    recipe = engines.recipe_of(engines.Layout(1, "bf16", hidden_size=16, context=16))
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"precision": precision})})
    engine, lines, modules = engines.engine_of(recipe, world), [], stub()
    with mock.patch.dict(sys.modules, modules):
        prepare_passes(engine, stage_of(recipe, "align"), world, lines.append)
        assert modules["torchao.float8"].converted == []
        prepare_passes(engine, pretrain_stage(recipe, world.dp_size), world, lines.append)
    losses = engines.train(engine, recipe, world, 0, 3)
    return losses, lines, len(modules["torchao.float8"].converted), engines.state_digest(engine)


def test_an_engine_trains_as_in_bf16() -> None:
    """With layers that compute as before: weights, gradients and optimizer state are found where they were."""
    plain, converted = on_ranks(losses_of, 2, "bf16"), on_ranks(losses_of, 2, "fp8")
    for (losses, lines, count, state), (expected, nothing, none, same) in zip(converted, plain):
        assert (losses, state) == (expected, same)
        assert (count, none, nothing) == (4, 0, [])
        assert lines == [
            "pretrain: fp8 gains no time without torch.compile, as its casts are kernels of their own; set bf16"
        ]


def refusal(capability: tuple[int, int] | None, modules: dict[str, Any]) -> str | None:
    """What a machine with such a device and packages says."""
    world = mock.Mock(device=torch.device("cpu" if capability is None else "cuda"), gather=lambda value: [None, value])
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch("torch.cuda.get_device_capability", return_value=capability),
        mock.patch("torch.cuda.get_device_name", return_value="NVIDIA A100-SXM4-80GB"),
    ):
        try:
            check_fp8(fp8_recipe(), world)
        except UserError as error:
            return str(error)
    return None


def test_machines_that_lack_something_are_refused() -> None:
    """In words that name the rank, as machines may differ."""
    absent = {"torchao": None, "torchao.float8": None}
    start = "parallel.precision: found fp8 and, on rank 1, "
    assert refusal((9, 0), stub()) is None
    assert refusal((8, 9), stub()) is None
    assert refusal((9, 0), absent) == (
        f"{start}no torchao; expected it to be installed: pip install 'torchao>=0.13'; or set bf16"
    )
    assert refusal((8, 0), stub()) == (
        f"{start}NVIDIA A100-SXM4-80GB of compute capability 8.0; expected 8.9 or more (L40S, H100); or set bf16"
    )
    assert refusal(None, stub()) == (
        f"{start}no CUDA device; expected one of compute capability 8.9 or more (L40S, H100); or set bf16"
    )
    check_fp8(fp8_recipe("bf16"), mock.Mock(gather=None))  # asks nobody


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": {"zero_stage": 3}}, "found fp8 with zero_stage=3"),
        ({"parallel": {"tensor_parallel_size": 2}}, "and tensor_parallel_size=2, for which DeepSpeed has layers"),
        ({"pretrain": {"align_every": 2}}, "found fp8 with pretrain.align_every"),
        ({"model": {"layers": 1, "hidden_size": 24, "heads": 2, "context": 32}}, "model.hidden_size=24; expected"),
        ({"model": {"layers": 1, "hidden_size": 32, "heads": 2, "context": 40}}, "of a sequence rank=40; expected"),
        ({"model": {"layers": 1, "hidden_size": 32, "heads": 2, "ffn_size": 100}}, "model.ffn_size=100; expected"),
    ],
)
def test_recipes_that_fp8_cannot_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"parallel\.precision: ") as error:
        fp8_recipe(**changes)
    assert message in str(error.value)


def test_a_run_is_refused_before_anything_is_built(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir, parallel={"precision": "fp8"})
    code, _, err = finish(start(train_arguments(recipe, tmp_path / "run")))
    assert code == 2
    assert "found fp8 and, on rank 0, no CUDA device; expected one" in err
    assert not (tmp_path / "run").exists()


def test_the_rest_takes_it_for_bf16() -> None:
    recipe, plain = fp8_recipe(), fp8_recipe("bf16")
    assert replace(Layout.of(pretrain_stage(recipe)), fp8=False) == Layout.of(pretrain_stage(plain))
    model = load_model(recipe, lambda name, shape: torch.zeros(shape), torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
