"""Products of the pretrain stage's blocks in fp8, by torchao: `parallel.precision: fp8`. It has not run on a GPU.

torchao's layers scale each tensor by its largest value as they cast it, and keep the layers' own parameters. So
weights, gradients, optimizer state and checkpoints are those of bf16, whatever ZeRO makes of them up to stage 2.
"""

from types import ModuleType

import torch
from torch import nn

from prealign.config import Recipe
from prealign.config.stage import Stage
from prealign.distributed.world import World
from prealign.errors import UserError

_LAYERS = ("qkv", "q", "out", "up", "down", "gate")
"""Of a block; LM head and embeddings, and keys and values of fewer heads than queries, stay in bf16."""
_CAPABILITY = (8, 9)
"""The first with fp8 products: Ada and Hopper."""


def check_fp8(recipe: Recipe, world: World) -> None:
    """Raise `UserError` on all ranks where the recipe asks for fp8 and one of them lacks what that takes; all call
    it."""
    if recipe.parallel.precision != "fp8":
        return
    for rank, missing in enumerate(world.gather(_missing(world.device))):
        if missing is not None:
            raise UserError(f"parallel.precision: found fp8 and, on rank {rank}, {missing}; or set bf16")


def _missing(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "no CUDA device; expected one of compute capability 8.9 or more (L40S, H100)"
    if (found := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} of compute capability {found[0]}.{found[1]}; expected 8.9 or more (L40S, H100)"
    if _torchao() is None:
        return "no torchao; expected it to be installed: pip install 'torchao>=0.13'"
    return None


def _torchao() -> ModuleType | None:
    try:
        import torchao.float8
    except ImportError:
        return None
    return torchao.float8


def computes_in_fp8(stage: Stage) -> bool:
    """Whether a stage's blocks do; words of the align stage are any number of tokens, and compute in bf16."""
    return stage.recipe.parallel.precision == "fp8" and stage.name == "pretrain"


def use_fp8(model: nn.Module) -> None:
    """Exchange the linear layers of a model's blocks for torchao's, with the same parameters."""
    torchao = _torchao()
    assert torchao is not None  # by `check_fp8`
    torchao.convert_to_float8_training(model, module_filter_fn=_is_of_a_block)


def _is_of_a_block(module: nn.Module, name: str) -> bool:
    """For torchao: whether a layer of the model, by its dotted name, is exchanged."""
    return type(module) is nn.Linear and ".blocks." in f".{name}" and name.rpartition(".")[2] in _LAYERS
