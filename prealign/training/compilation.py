"""torch.compile of a stage's passes, tried before the first step, so that all ranks compile or none does."""

from collections.abc import Callable

import torch

from prealign.config.stage import Stage
from prealign.data.loader import MicroBatch
from prealign.distributed.engine import Engine
from prealign.distributed.world import World
from prealign.objectives.inputs import ModelInputs, text_inputs
from prealign.objectives.joint import JointModel
from prealign.training.fp8 import computes_in_fp8, use_fp8

_LONGEST = 300
"""Characters of an error that are shown."""
_ADVICE = " Set TORCHDYNAMO_VERBOSE"
"""From where on an error of torch's compiler is about how to report it."""


def prepare_passes(engine: Engine, stage: Stage, world: World, say: Callable[[str], None]) -> bool:
    """Make an engine's passes those of a stage, before its first step: in fp8, and compiled, where it has them so. All
    ranks call it; returns whether they are compiled."""
    if computes_in_fp8(stage):
        use_fp8(engine.module)
    compiled = compile_passes(engine, stage, world, say)
    if computes_in_fp8(stage) and not compiled:
        say(f"{stage.name}: fp8 gains no time without torch.compile, as its casts are kernels of their own; set bf16")
    return compiled


def compile_passes(
    engine: Engine,
    stage: Stage,
    world: World,
    say: Callable[[str], None],
    backend: str | Callable[..., object] = "inductor",
) -> bool:
    """Have the stage's passes compiled where it compiles (`Stage.compiles`), and say whether they are; all ranks call
    it and get the same answer.

    With ``auto`` every rank makes a pass first (`trial_error`); where that fails on any of them all run uncompiled, and
    ``say`` gets a line with the reason. With ``true`` the first step compiles, and what fails there ends the run.
    """
    model = engine.module
    assert isinstance(model, JointModel)
    model.run_uncompiled()
    if not stage.compiles(world.device.type == "cuda"):
        return False
    # sizes are those of the first pass in all of a stage, but where documents begin changes
    model.compile_training(backend, dynamic=None if stage.recipe.model.reset_at_document else False)
    if stage.compile != "auto":
        return True
    error = trial_error(model, stage, world)
    if not world.any(error is not None):
        say(f"{stage.name}: passes run through torch.compile")
        return True
    model.run_uncompiled()
    torch.compiler.reset()
    if world.device.type == "cuda":
        torch.cuda.empty_cache()  # of what the trial has had
    rank, reason = next((rank, each) for rank, each in enumerate(world.gather(error)) if each is not None)
    say(
        f"{stage.name}: torch.compile failed on rank {rank} ({reason}); training goes on uncompiled; "
        f"parallel.compile=false leaves it out"
    )
    return False


def trial_error(model: JointModel, stage: Stage, world: World) -> str | None:
    """What goes wrong in a forward and backward pass of a micro-batch of the stage's sizes, on one line; None: nothing.

    Neither the model nor its gradients, nor the state of random numbers, change, and DeepSpeed sees nothing of it: it
    listens to gradients that accumulate, and these do not. No rank waits for another one: passes of text have no
    collectives where ranks share neither weights nor rows. Objectives are called once more than there are steps.
    """
    recipe = stage.recipe
    rows = torch.zeros(recipe.batch.micro_batch_size, recipe.model.context, dtype=torch.int64)
    batch = MicroBatch(rows, rows, rows[:, 0], torch.zeros(3, dtype=torch.int64))
    on_cuda = world.device.type == "cuda"
    model.train()
    with torch.random.fork_rng([world.device] if on_cuda else []):
        try:
            text = text_inputs(batch, world.device, recipe.document_ends, world.exchange, recipe.language_of_source)
            passes = world.replicas * recipe.accumulation(world.dp_size)
            targets = torch.tensor(rows.numel(), device=world.device)
            loss = model.forward(ModelInputs(text, None, targets, passes))["loss"]
            assert loss is not None
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            if on_cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()  # steps have a peak of their own
        except torch.OutOfMemoryError:
            return "out of memory: a compiled pass holds all gradients at once; a smaller micro-batch may fit"
        except Exception as error:  # whatever a compiler raises: without it there may be nothing wrong
            return _on_one_line(error)
    return None


def _on_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).partition(_ADVICE)[0][:_LONGEST]
