"""Small engines for tests of checkpoints: built, trained, saved and loaded inside one process per rank."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.ops
import torch

from prealign.config import Recipe
from prealign.data.loader import MicroBatch
from prealign.data.word_batches import WordBatch
from prealign.distributed import world
from prealign.distributed.checkpoints import Checkpoints
from prealign.distributed.engine import build_engine
from prealign.distributed.pieces import held_pieces, tensors_of
from prealign.distributed.world import World
from prealign.kernels import full_relations
from prealign.model.initialisation import initial_value
from prealign.objectives.inputs import word_inputs
from prealign.training.clock import Clock
from prealign.training.step import take_step
from tests.conftest import tiny_recipe

BATCH = 8
QWEN = {0: {}, 2: {"attention_bias": True}, 3: {"qk_norm": True, "head_size": 6}}
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "ffn_size": 28}


@dataclass(frozen=True)
class Layout:
    """How an engine is spread, beside its number of ranks."""

    stage: int
    precision: str = "fp32"
    tp_size: int = 1
    sp_size: int = 1
    context: int = 7
    reset_at_document: bool = False
    hidden_size: int = 18
    heads: int = 2
    llama: bool = False
    """Grouped queries, rotary positions, RMSNorm, SwiGLU, no biases."""
    kv_heads: int = 2
    """Where queries are grouped."""
    qwen: int = 0
    """2: queries, keys and values have biases; 3: queries and keys have norms, and heads their own size."""
    tied: bool = False
    vocab_multiple: int = 1
    """Of 1,200 tokens."""


def recipe_of(layout: Layout, **checkpoint: Any) -> Recipe:
    """A model whose sizes few numbers divide, so that pieces end inside parameters and partitions are padded."""
    return tiny_recipe(
        Path("no-data"),
        parallel={
            "precision": layout.precision,
            "zero_stage": layout.stage,
            "tensor_parallel_size": layout.tp_size,
            "sequence_parallel_size": layout.sp_size,
        },
        model={
            "layers": 1,
            "hidden_size": layout.hidden_size,
            "heads": layout.heads,
            "vocab_multiple": layout.vocab_multiple,
            "tied_embeddings": layout.tied,
            "context": layout.context,
            "reset_at_document": layout.reset_at_document,
            **(LLAMA | {"kv_heads": layout.kv_heads} | QWEN[layout.qwen] if layout.llama else {}),
        },
        checkpoint={"every": 1, "keep": 10, "asynchronous": False, **checkpoint},
        batch={"global_batch_size": BATCH, "micro_batch_size": 1},
    )


def world_of(rank: int, ranks: int, tp_size: int = 1, sp_size: int = 1) -> World:
    """The world of a process that `tests.processes.on_ranks` started."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return world.world_of(torch.device("cpu"), None, tp_size, sp_size)


def engine_of(recipe: Recipe, world: World) -> deepspeed.DeepSpeedEngine:
    """With a rate that changes at every step."""
    return build_engine(recipe, world, lambda name, shape: initial_value(name, shape, recipe), lambda s: 1e-2 / (s + 1))


def checkpoints_of(folder: Path, recipe: Recipe, world: World) -> Checkpoints:
    return Checkpoints(folder, world, recipe.checkpoint)


def train(engine: deepspeed.DeepSpeedEngine, recipe: Recipe, world: World, first: int, last: int) -> list[float]:
    """Losses of steps ``first`` to ``last``; a step's samples depend on its number alone."""
    return [row["lm_loss"] for row in measured(engine, recipe, world, first, last)]


def measured(
    engine: deepspeed.DeepSpeedEngine, recipe: Recipe, world: World, first: int, last: int, words: bool = False
) -> list[dict[str, Any]]:
    """What `train` makes of each step. ``words``: a step has a word batch too."""
    found = []
    for step in range(first, last):
        mine = rows_of(recipe, step).chunk(world.dp_size)[world.dp_rank].split(1)
        local = word_inputs(words_of(recipe, step), world.replica_rank, world.replicas) if words else None
        found.append(take_step(engine, recipe, world, [micro_batch(row) for row in mine], local, Clock()).row())
    return found


def words_of(recipe: Recipe, step: int) -> WordBatch:
    """Nine words of one to three tokens, the vocabulary's first and last among them, each the translation of two."""
    lengths = torch.arange(9) % 3 + 1
    tokens = torch.randint(0, recipe.vocab_size, (int(lengths.sum()),), generator=torch.Generator().manual_seed(step))
    tokens[:4] = torch.tensor([0, recipe.vocab_size - 1, recipe.vocab_size // 2 - 1, recipe.vocab_size // 2])
    languages = torch.zeros(9, dtype=torch.int64)
    return WordBatch(tokens, lengths, languages, ("en",), full_relations(torch.arange(9) // 3))


def rows_of(recipe: Recipe, step: int) -> torch.Tensor:
    """A step's rows, ``[BATCH, context + 1]``."""
    shape = (BATCH, recipe.model.context + 1)
    return torch.randint(0, recipe.vocab_size, shape, generator=torch.Generator().manual_seed(step))


def micro_batch(rows: torch.Tensor) -> MicroBatch:
    sources, words = torch.zeros(len(rows), dtype=torch.int64), torch.zeros(3)
    return MicroBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), sources, words)


def state_digest(engine: deepspeed.DeepSpeedEngine) -> str:
    """SHA-256 over weights and optimizer state that this rank holds."""
    digest = hashlib.sha256()
    for piece in held_pieces(engine):
        for key, tensor in sorted(tensors_of(engine, piece).items()):
            digest.update(f"{piece.name} {piece.start} {key}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
