"""What of the model and its optimizer this rank holds, for every ZeRO stage in the same terms.

DeepSpeed steps an optimizer over *masters*: fp32 tensors that are parameters themselves (fp32 without ZeRO), fp32
copies of them (bf16 without ZeRO), or flat tensors that hold this rank's part of many parameters (ZeRO 1 to 3). A
`Piece` says which range of which parameter, or of a tensor rank's shard of it, lies where in which master. Parameters
and their elements are the same for every layout, so what the pieces of one layout write, the pieces of any other read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from prealign.distributed.tensor_parallel import Shard, is_split
from prealign.distributed.world import World
from prealign.errors import UserError

WEIGHT = "weight"
"""Key of the fp32 weights among a piece's tensors; the others are the optimizer's own (``exp_avg``, ``exp_avg_sq``)."""


@dataclass(frozen=True)
class Piece:
    """Elements ``[start, start + length)`` of the flattened ``shard`` of parameter ``name``, at ``offset`` in
    ``master``."""

    name: str
    shard: Shard
    start: int
    length: int
    master: torch.Tensor
    offset: int

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """The piece of ``tensor``, which has the master's shape: ``[length]``, sharing its memory."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)

    def share(self, rank: int, ranks: int) -> "Piece":
        """The ``rank``-th of ``ranks`` nearly equal parts of the piece."""
        first, last = self.length * rank // ranks, self.length * (rank + 1) // ranks
        return replace(self, start=self.start + first, length=last - first, offset=self.offset + first)


def parameter_shapes(engine: deepspeed.DeepSpeedEngine) -> dict[str, list[int]]:
    """Name -> shape of every parameter, whole."""
    return {
        name: shard_of(engine, name, parameter).whole_shape(name, _shape(parameter))
        for name, parameter in engine.module.named_parameters()
    }


def shard_of(engine: deepspeed.DeepSpeedEngine, name: str, parameter: nn.Parameter) -> Shard:
    """What this rank's tensor rank holds of a parameter."""
    ranks = max(1, engine.autotp_size()) if is_split(parameter) else 1
    return Shard.of(name, _shape(parameter)[0], dist.get_rank() % ranks, ranks)


def held_pieces(engine: deepspeed.DeepSpeedEngine) -> list[Piece]:
    """All pieces this rank holds. Raises `UserError` where the optimizer's state is on NVMe and not in memory."""
    _refuse_nvme_optimizer(engine)
    pieces = []
    find = _finder(engine)
    for name, parameter in engine.module.named_parameters():
        place = find(parameter)
        if place is not None and place.length > 0:
            shard = shard_of(engine, name, parameter)
            pieces.append(Piece(name, shard, place.start, place.length, place.master, place.offset))
    return pieces


def owned_pieces(engine: deepspeed.DeepSpeedEngine, world: World) -> list[Piece]:
    """Pieces that this rank writes: over all ranks they cover every parameter exactly once."""
    pieces = []
    for piece in held_pieces(engine):
        if engine.zero_optimization_stage() == 0:  # every data rank holds everything
            piece = piece.share(world.replica_rank, world.replicas)
        if piece.shard.ranks == 1:  # and every tensor rank
            piece = piece.share(world.tp_rank, world.tp_size)
        pieces.append(piece)
    return [piece for piece in pieces if piece.length > 0]


def tensors_of(engine: deepspeed.DeepSpeedEngine, piece: Piece) -> dict[str, torch.Tensor]:
    """Weight and optimizer state of a piece, each ``[length]``, sharing the engine's memory."""
    found = {WEIGHT: piece.view(piece.master)}
    for key, value in engine.basic_optimizer.state.get(piece.master, {}).items():
        if _is_elementwise(value, piece.master):
            found[key] = piece.view(value)
    return found


def optimizer_facts(engine: deepspeed.DeepSpeedEngine) -> dict[str, Any]:
    """What the optimizer keeps beside the pieces, as plain values equal on all ranks: names and dtypes of its
    element-wise tensors, its counters (equal for all masters, so one value each), and the step of its first group."""
    optimizer = engine.basic_optimizer
    tensors: dict[str, str] = {}
    counters: dict[str, dict[str, Any]] = {}
    for master in _masters(engine):
        for key, value in optimizer.state.get(master, {}).items():
            if _is_elementwise(value, master):
                tensors[key] = str(value.dtype).removeprefix("torch.")
            elif isinstance(value, torch.Tensor):
                counters[key] = {"value": float(value), "tensor": True}
            elif isinstance(value, (int, float)):
                counters[key] = {"value": value, "tensor": False}
    group = optimizer.param_groups[0]
    return {"tensors": tensors, "counters": counters, "group_step": int(group["step"]) if "step" in group else None}


def restore_optimizer(engine: deepspeed.DeepSpeedEngine, facts: dict[str, Any]) -> None:
    """Give the optimizer the state that `optimizer_facts` describes, to be filled piece by piece: element-wise tensors
    that it lacks are made, of zeros, and those that it has keep their values until then."""
    optimizer = engine.basic_optimizer
    flags = optimizer.param_groups[0]
    on_device = flags.get("fused") or flags.get("capturable")  # where torch's optimizers keep their counters
    for master in _masters(engine):
        state = optimizer.state[master]
        for key, dtype in facts["tensors"].items():
            if not _is_elementwise(state.get(key), master):
                state[key] = torch.zeros_like(master, dtype=getattr(torch, dtype), requires_grad=False)
        for key, counter in facts["counters"].items():
            value = counter["value"]
            if counter["tensor"]:
                device = master.device if on_device else "cpu"
                value = torch.tensor(value, dtype=torch.float32, device=device)
            state[key] = value
        for key in set(state) - facts["tensors"].keys() - facts["counters"].keys():
            del state[key]
    if facts["group_step"] is not None:
        for group in optimizer.param_groups:
            group["step"] = facts["group_step"]


def begin_restore(engine: deepspeed.DeepSpeedEngine) -> None:
    """Let the engine put its parameters where `held_pieces` looks; call it before pieces are written into, and then
    `end_restore`."""
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.checkpoint_event_prologue()


def end_restore(engine: deepspeed.DeepSpeedEngine) -> None:
    """Make the model's own parameters those of the masters, and let the engine put them back where it keeps them; all
    ranks call it."""
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)  # as its own step does
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.checkpoint_event_epilogue()
    elif stage > 0:
        optimizer.update_lp_params()
    else:
        for parameter, (master, offset) in _replicated_places(engine).items():
            parameter.detach().view(-1).copy_(master.detach().view(-1).narrow(0, offset, parameter.numel()))


@dataclass(frozen=True)
class _Place:
    start: int
    length: int
    master: torch.Tensor
    offset: int


def _finder(engine: deepspeed.DeepSpeedEngine) -> Callable[[nn.Parameter], _Place | None]:
    """Where the engine's layout puts a parameter; None where this rank holds nothing of it."""
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:

        def partitioned(parameter: Any) -> _Place:
            group, offset, room = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = room * optimizer._get_param_partition_rank(parameter)
            length = max(0, min(room, parameter.ds_numel - start))  # the last partition may be padded
            return _Place(start, length, optimizer.fp32_partitioned_groups_flat[group], offset)

        return partitioned
    if stage > 0:
        groups = engine.basic_optimizer.param_groups

        def flattened(parameter: Any) -> _Place | None:
            mapping = parameter._hp_mapping
            if mapping is None:
                return None
            master = groups[mapping.param_group_index]["params"][0]
            whole, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            return _Place(whole.start, whole.numel, master, flat.start)

        return flattened
    places = _replicated_places(engine)

    def replicated(parameter: nn.Parameter) -> _Place:
        master, offset = places.get(parameter, (parameter, 0))
        return _Place(0, parameter.numel(), master, offset)

    return replicated


def _replicated_places(engine: deepspeed.DeepSpeedEngine) -> dict[nn.Parameter, tuple[torch.Tensor, int]]:
    """bf16 parameter -> its fp32 master and place in it, without ZeRO; empty in fp32."""
    optimizer = engine.optimizer
    places = {}
    if hasattr(optimizer, "fp32_groups_flat"):
        for parameters, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat):
            offset = 0
            for parameter in parameters:
                places[parameter] = (flat, offset)
                offset += parameter.numel()
    elif hasattr(optimizer, "fp32_groups"):
        for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups):
            places |= {parameter: (master, 0) for parameter, master in zip(parameters, masters)}
    return places


def _masters(engine: deepspeed.DeepSpeedEngine) -> Iterator[torch.Tensor]:
    if engine.zero_optimization_stage() == 3:  # its groups are empty between steps
        yield from engine.optimizer.fp32_partitioned_groups_flat
    else:
        for group in engine.basic_optimizer.param_groups:
            yield from group["params"]


def _is_elementwise(value: Any, master: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape == master.shape


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # a sharded parameter's own shape is empty


def _refuse_nvme_optimizer(engine: deepspeed.DeepSpeedEngine) -> None:
    if engine.zero_nvme_offload_optimizer():
        raise UserError(
            "deepspeed.zero_optimization.offload_optimizer.device: found nvme; checkpoints need the optimizer's state "
            "in memory; set it to cpu"
        )
