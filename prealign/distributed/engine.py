"""From a recipe to a DeepSpeed engine."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from prealign.config import Recipe
from prealign.distributed.pieces import shard_of
from prealign.distributed.tensor_parallel import (
    TensorGroup,
    autotp_config,
    is_split,
    mark_gradients,
    mark_split,
    share_key_values,
)
from prealign.distributed.world import World
from prealign.model.shapes import VOCABULARY, vocabulary_ranks
from prealign.objectives.joint import JointModel
from prealign.objectives.terms import Objective

Engine = deepspeed.DeepSpeedEngine
"""What forward, backward and the optimizer step are called on."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

InitialValue = Callable[[str, torch.Size], torch.Tensor]
"""Parameter name and shape -> its fp32 value; called in an order of its own on every rank that needs it."""


def deepspeed_config(recipe: Recipe, dp_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration; the recipe's ``deepspeed:`` section is merged over it, key by key."""
    optimizer = recipe.optimizer
    generated = {
        "train_micro_batch_size_per_gpu": recipe.batch.micro_batch_size,
        "gradient_accumulation_steps": recipe.accumulation(dp_size),
        "optimizer": {
            "type": "AdamW",
            "params": {
                "torch_adam": True,
                "lr": 0.0,  # the schedule sets the rate; without ZeRO, bf16 takes an empty step at this one
                "betas": [optimizer.beta1, optimizer.beta2],
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "fused": True,
            },
        },
        "gradient_clipping": optimizer.gradient_clipping,
        "bf16": {"enabled": recipe.parallel.weights == "bf16"},
        "zero_optimization": {"stage": recipe.parallel.zero_stage},
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a micro-batch
    }
    if recipe.parallel.tensor_parallel_size > 1:
        generated["tensor_parallel"] = autotp_config(recipe.model, recipe.parallel.tensor_parallel_size)
    return _merged(_merged(generated, _gradient_types(recipe, dp_size)), recipe.deepspeed)


def _gradient_types(recipe: Recipe, dp_size: int) -> dict[str, Any]:
    """fp32 for sums of bf16 gradients: over ranks, and over a step's micro-batches where it has several. DeepSpeed's
    own choice is bf16 for both, whose 8 bits lose what is small beside the sum. For micro-batches it has no other
    without ZeRO, and with ZeRO 1 and 2 and an offloaded optimizer none that is of use: its sums would lie on the
    device, and keep a gradient that is not finite for ever."""
    if recipe.parallel.weights != "bf16":
        return {}
    types: dict[str, Any] = {"communication_data_type": "fp32"}
    stage = recipe.parallel.zero_stage
    if recipe.accumulation(dp_size) > 1 and (stage == 3 or (stage > 0 and not recipe.offloads_optimizer)):
        types["data_types"] = {"grad_accum_dtype": "fp32"}
        types["bf16"] = {"immediate_grad_update": True}  # each gradient is added, and let go, as soon as it is there
    return types


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def build_model(
    recipe: Recipe, world: World, initial_value: InitialValue, objectives: Sequence[Objective] = ()
) -> JointModel:
    """The model with its initial values, in the precision that it is trained in: made on the rank's device, a parameter
    at a time, so that host memory never holds more than one; with tensor ranks, of whose devices none need hold all of
    it, in host memory. Of the embedding tables a tensor rank has its own rows from the start; the rest AutoTP splits
    later. Under ZeRO-3 it is born sharded and no rank holds all of it."""
    sharded = recipe.parallel.zero_stage == 3
    group = (world.replica_group or dist.group.WORLD) if world.replicas > 1 else None
    config = deepspeed_config(recipe, world.dp_size)
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None  # hpZ refuses a second engine in a process, as every stage has one
    parts = vocabulary_ranks(recipe.padded_vocab_size, world.tp_size)
    if sharded:
        with deepspeed.zero.Init(config_dict_or_path=config, data_parallel_group=world.replica_group):
            model = JointModel(recipe, group, objectives, parts)
    else:
        with torch.device("meta"):
            model = JointModel(recipe, group, objectives, parts)
        device = world.device if world.tp_size == 1 else torch.device("cpu")
        model.to(_DTYPES[recipe.parallel.weights]).to_empty(device=device)
        model.tie()
    for name, parameter in model.named_parameters():
        split = parts if name in VOCABULARY else 1
        if split > 1:
            mark_split(parameter)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if not sharded or world.replica_rank == 0:
                whole = torch.Size((split * parameter.shape[0], *parameter.shape[1:]))
                parameter.copy_(initial_value(name, whole).chunk(split)[world.tp_rank if split > 1 else 0])
    return model


def build_engine(
    recipe: Recipe,
    world: World,
    initial_value: InitialValue,
    learning_rate: Callable[[int], float],
    objectives: Sequence[Objective] = (),
) -> deepspeed.DeepSpeedEngine:
    """A model with optimizer and schedule; ``learning_rate`` maps a step (from 0) to its rate; ``objectives``: terms of
    the loss beside the two of the paper."""
    return initialise_engine(build_model(recipe, world, initial_value, objectives), recipe, world, learning_rate)


def initialise_engine(
    model: nn.Module, recipe: Recipe, world: World, learning_rate: Callable[[int], float]
) -> deepspeed.DeepSpeedEngine:
    """Any model with the recipe's optimizer, batch sizes and layout; ``learning_rate`` as in `build_engine`."""
    config = deepspeed_config(recipe, world.dp_size)
    # of memory use, in 18 lines, and of gradients that are added up over tensor ranks
    talks = (recipe.parallel.zero_stage == 1 and "data_types" in config) or world.tp_size > 1
    with contextlib.redirect_stdout(io.StringIO()) if talks else contextlib.nullcontext():
        engine, _, _, _ = deepspeed.initialize(
            model=model,
            model_parameters=_parameter_groups(model),
            config=config,
            lr_scheduler=lambda optimizer: _schedule(optimizer, learning_rate),
            dist_init_required=False,
        )
    if world.tp_size > 1:
        ranks = TensorGroup(groups.get_tensor_model_parallel_group())
        share_key_values(model, ranks)
        if isinstance(model, JointModel) and is_split(model.head.weight):
            model.share_rows(ranks)
        if recipe.parallel.zero_stage == 0:
            mark_gradients(model)
        engine.first_dataloader_check.remove()  # it sends the first batch around; batches are equal by construction
    if recipe.parallel.zero_stage == 0:
        engine.basic_optimizer.state.clear()  # of that empty step, which would count in Adam's bias correction
    return engine


def _schedule(optimizer: torch.optim.Optimizer, learning_rate: Callable[[int], float]) -> LambdaLR:
    for group in optimizer.param_groups:
        group["lr"] = 1.0  # what the schedule multiplies
    return LambdaLR(optimizer, learning_rate)


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices, none on biases and norms."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in model.parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # a sharded parameter's own shape is empty
        (matrices if len(shape) >= 2 else vectors).append(parameter)
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def plain_gradient_norm(engine: deepspeed.DeepSpeedEngine) -> torch.Tensor:
    """Global norm of the gradients before clipping where DeepSpeed keeps none (fp32 without ZeRO); call it between the
    step's last backward and ``engine.step``."""
    split: list[torch.Tensor] = []
    whole: list[torch.Tensor] = []
    for name, parameter in engine.module.named_parameters():
        if parameter.grad is not None:
            (split if shard_of(engine, name, parameter).ranks > 1 else whole).append(parameter.grad)
    if not split:
        return torch.nn.utils.get_total_norm(whole)
    squares = torch.nn.utils.get_total_norm(split) ** 2
    dist.all_reduce(squares, group=groups.get_tensor_model_parallel_group())
    return (squares + torch.nn.utils.get_total_norm(whole) ** 2).sqrt()


def held_weights(engine: deepspeed.DeepSpeedEngine) -> Iterator[torch.Tensor]:
    """What this rank holds of every parameter that the model computes with; under ZeRO-3 that is its part."""
    for parameter in engine.module.parameters():
        yield getattr(parameter, "ds_tensor", parameter)


def step_optimizer(engine: deepspeed.DeepSpeedEngine, withheld: bool = False) -> bool:
    """The engine's step at the end of an optimizer step; the schedule moves in any case. ``withheld``: weights and
    moments stay as they are. Returns False where DeepSpeed left the update out, as gradients were not finite."""
    with _without_update(engine) if withheld else contextlib.nullcontext():
        engine.step()
    applied = engine.was_step_applied()
    if not applied:  # DeepSpeed leaves out the schedule's step too
        engine.lr_scheduler.step()
    return applied


@contextlib.contextmanager
def _without_update(engine: deepspeed.DeepSpeedEngine) -> Iterator[None]:
    """The engine's steps within leave weights and moments as they are; gradients, counters and schedule go on."""
    optimizer = engine.basic_optimizer
    usual = optimizer.step
    optimizer.step = lambda *arguments, **options: None
    try:
        yield
    finally:
        optimizer.step = usual
