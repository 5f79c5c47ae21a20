"""Speed and memory of training steps, stage by stage, with the time of their parts."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from prealign.config import Recipe
from prealign.config.recipe import StageName
from prealign.config.stage import STAGES, Stage, stage_of
from prealign.data.loader import MicroBatch, StageDataset, micro_batches
from prealign.data.prepared import PreparedData
from prealign.data.word_batches import WordBatch
from prealign.distributed.engine import Engine, build_engine
from prealign.distributed.pieces import parameter_shapes
from prealign.distributed.world import World
from prealign.kernels import Relations, csr
from prealign.model.flops import infonce_flops, text_token_flops, word_token_flops
from prealign.model.initialisation import initial_value
from prealign.planning.devices import peak_tflops
from prealign.random_streams import Draw, mix
from prealign.training.clock import Clock
from prealign.training.compilation import prepare_passes
from prealign.training.fp8 import check_fp8
from prealign.training.machine import attention_of, device_name, peak_memory_gb
from prealign.training.plan import Account, plan_of
from prealign.training.step import take_step
from prealign.training.step_words import StepWords, step_words, words_of
from prealign.training.words import word_batches

PARTS = ("data", "forward", "backward", "optimizer")


def benchmark(
    recipe: Recipe, world: World, data: PreparedData | None, names: Sequence[StageName], steps: int, warmup: int
) -> dict[str, Any]:
    """Measure steps of each stage on real data, or with ``data=None`` on random tokens of the recipe's sizes. Both
    stages are measured with the sizes of `batch`, whatever `align.global_batch_size` says.

    Returns a record: device, versions, attention kernels, sizes, and per stage tokens/s, TFLOP/s, MFU against the
    device's dense peak (None where it is not known), all from the wall time of the steps together, peak memory in GB,
    the seconds per part of one more step, which waits for the device after each, on CUDA the seconds of another by
    kernel, and whether passes ran through torch.compile.
    """
    recipe = recipe.model_copy(update={"align": recipe.align.model_copy(update={"global_batch_size": None})})
    name = device_name(world.device)
    check_fp8(recipe, world)
    peak = peak_tflops(name, recipe.parallel.precision)
    engine = build_engine(recipe, world, lambda name, shape: initial_value(name, shape, recipe), lambda step: 1e-5)
    record: dict[str, Any] = {
        "device": name,
        "ranks": world.world_size,
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "attention": attention_of(recipe, world.device),
        "recipe": recipe.name,
        "data": "real" if data is not None else "synthetic",
        "parameters": sum(math.prod(shape) for shape in parameter_shapes(engine).values()),
        "micro_batch_size": recipe.batch.micro_batch_size,
        "global_batch_size": recipe.batch.global_batch_size,
        "peak_tflops_per_device": peak,
        "stages": {},
    }
    say: Callable[[str], None] = print if world.is_first else lambda line: None
    for stage in [stage_of(recipe, name) for name in STAGES if name in names]:
        compiled = prepare_passes(engine, stage, world, say)
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        source = _real(stage, world, data) if data is not None else _synthetic(stage, world)
        for _ in range(warmup):
            _step(engine, stage.recipe, world, source, synchronise=False)
        _synchronise(world)
        began = time.perf_counter()
        measured = [_step(engine, stage.recipe, world, source, synchronise=False) for _ in range(steps)]
        _synchronise(world)
        seconds = (time.perf_counter() - began) / steps
        parts = _step(engine, stage.recipe, world, source, synchronise=True).seconds
        record["stages"][stage.name] = _summary(stage.recipe, world, measured, seconds, parts, peak)
        record["stages"][stage.name]["compiled"] = compiled
        if world.device.type == "cuda":
            record["stages"][stage.name]["kernel_seconds"] = _kernel_seconds(
                partial(_step, engine, stage.recipe, world, source, synchronise=False)
            )
    return record


def _kernel_seconds(step: Callable[[], object]) -> dict[str, float]:
    """Seconds of a step on the device by kernel, the longest first: the twenty longest, and the rest together."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    events = sorted(trace.key_averages(), key=lambda event: -event.device_time_total)
    seconds = {event.key[:100]: event.device_time_total / 1e6 for event in events[:20]}
    return seconds | {"others": sum(event.device_time_total for event in events[20:]) / 1e6}


def _synchronise(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step's parts, and its words over all ranks."""

    seconds: dict[str, float]
    words: int
    word_tokens: int


def _step(
    engine: Engine,
    recipe: Recipe,
    world: World,
    source: Iterator[tuple[list[MicroBatch], StepWords | None]],
    synchronise: bool,
) -> StepTimes:
    """``synchronise``: wait for the device after every part, so that each has its own time."""
    clock = Clock(torch.cuda.synchronize if synchronise and world.device.type == "cuda" else None)
    with clock.part("data"):
        micro, words = next(source)
    take_step(engine, recipe, world, micro, words.inputs if words else None, clock)
    return StepTimes(clock.seconds, words.count if words else 0, sum(words.tokens.values()) if words else 0)


def _summary(
    recipe: Recipe,
    world: World,
    measured: list[StepTimes],
    total: float,
    parts: dict[str, float],
    peak: float | None,
) -> dict[str, Any]:
    """``total``: seconds of a step; ``parts``: those of the parts of one step."""
    tokens = recipe.batch.global_batch_size * recipe.model.context
    flops = tokens * text_token_flops(recipe)
    flops += statistics.mean(step.word_tokens for step in measured) * word_token_flops(recipe)
    flops += statistics.mean(infonce_flops(recipe, step.words) for step in measured)
    rate = flops / total / world.world_size / 1e12
    return {
        "seconds_per_step": total,
        "seconds": {part: parts[part] for part in PARTS},
        "tokens_per_second": tokens / total,
        "words_per_step": statistics.mean(step.words for step in measured),
        "tflops_per_device": rate,
        "mfu": rate / peak if peak else None,
        "peak_memory_gb": peak_memory_gb(world.device),
    }


def _synthetic(stage: Stage, world: World) -> Iterator[tuple[list[MicroBatch], StepWords | None]]:
    """Random tokens; words in pairs of translations, one to four tokens each."""
    recipe = stage.recipe
    generator = torch.Generator().manual_seed(world.dp_rank)
    rows, context = recipe.batch.micro_batch_size, recipe.model.context
    shared = torch.Generator().manual_seed(0)  # every rank sees the same words
    for step in itertools.count():
        micro = []
        for _ in range(recipe.accumulation(world.dp_size)):
            tokens = torch.randint(0, recipe.vocab_size, (rows, context + 1), generator=generator)
            sources, words_seen = torch.zeros(rows, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
            micro.append(MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), sources, words_seen))
        words = None
        if stage.word_steps is not None and step % stage.word_steps.every == 0:
            assert recipe.align.words_per_step is not None
            count = recipe.align.words_per_step // 2 * 2
            lengths = torch.randint(1, 5, (count,), generator=shared)
            tokens = torch.randint(0, recipe.vocab_size, (int(lengths.sum()),), generator=shared)
            languages = torch.arange(count) % 2
            batch = WordBatch(tokens, lengths, languages, tuple(recipe.languages)[:2], _pairs(count))
            words = words_of(batch, world, recipe.align.include_self)
        yield micro, words


def _pairs(count: int) -> Relations:
    """Words 0 and 1 are translations, 2 and 3, and so on."""
    rows = torch.arange(count)
    nothing = torch.empty(0, dtype=torch.int64)
    return Relations(csr(rows, rows ^ 1, count), csr(nothing, nothing, count), torch.full((count,), 1.0 / count))


def _real(stage: Stage, world: World, data: PreparedData) -> Iterator[tuple[list[MicroBatch], StepWords | None]]:
    recipe = stage.recipe
    plan = plan_of(recipe, stage.name, Account.empty(recipe))
    dataset = StageDataset(data.streams(stage.code_switch), plan.mixture, int(mix(recipe.seed, Draw.WINDOW_ORDER)))
    batches = micro_batches(
        dataset,
        global_batch_size=recipe.batch.global_batch_size,
        micro_batch_size=recipe.batch.micro_batch_size,
        dp_rank=world.dp_rank,
        dp_size=world.dp_size,
        first_step=0,
        steps=plan.steps,
        workers=recipe.loader_workers,
        pin_memory=world.device.type == "cuda",
    )
    steps = stage.steps_with_words(plan.steps if data.lexicon is not None else 0)
    words = step_words(word_batches(stage, data), world, steps, recipe.loader_workers) if steps else iter(())
    for step, micro in enumerate(batches):
        yield micro, next(words) if step in steps else None
