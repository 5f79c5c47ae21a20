"""One training stage, from its first step (or its last checkpoint) to its weights."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prealign.config import Recipe
from prealign.corpus.loader import StageDataset, micro_batches
from prealign.corpus.prepared import PreparedData
from prealign.distributed.checkpoints import Checkpoint, Checkpoints
from prealign.distributed.engine import InitialValue, build_engine
from prealign.distributed.weights import save_weights
from prealign.distributed.world import World
from prealign.errors import Interrupted, UserError
from prealign.evaluation.aligned import alignment_lines
from prealign.hashing import Draw, mix
from prealign.training.anomalies import AnomalyGuard, RolledBack
from prealign.training.metrics import Display, MetricsLog
from prealign.training.plan import Account, StagePlan
from prealign.training.schedule import learning_rate
from prealign.training.signals import ignore_signals
from prealign.training.space import check_space, has_room
from prealign.training.step import Clock, take_step
from prealign.training.words import word_batches

Evaluate = Callable[[torch.nn.Module, str, int], dict[str, Any]]
"""Measures a model after so many steps of a stage; all ranks call it, and it returns the same numbers on each."""


@dataclass(frozen=True)
class StageContext:
    """What a stage works with."""

    recipe: Recipe
    world: World
    data: PreparedData
    folder: Path
    """``RUN/align`` or ``RUN/pretrain``."""
    log: MetricsLog | None
    """None on all ranks but the first."""
    evaluate: Evaluate
    stop_after: int | None = None
    """Steps at which every stage is left as an interruption would leave it, with a checkpoint."""
    safe_point: Callable[[], None] = lambda: None
    """Called on all ranks before every forward pass; may raise `Interrupted` on all of them."""


def run_stage(context: StageContext, plan: StagePlan, initial_value: InitialValue, consumed: Account) -> bool:
    """Train a stage and write its weights to ``folder/weights``; False if it was stopped before its end.

    ``consumed``: what the run spent before this stage. Raises `Interrupted`, with a checkpoint, and `RolledBack` when
    it is to be called again.
    """
    world, stage = context.world, plan.stage
    recipe = context.recipe.at_stage(stage, world.row_ranks)
    checkpoints = Checkpoints(context.folder / "checkpoints", world, recipe.checkpoint)
    last = min(plan.steps, context.stop_after or plan.steps)
    identity = {"data": context.data.fingerprint_of(stage)}

    # --- where the stage stands ---
    found = checkpoints.find()
    step, words, targets = 0, dict.fromkeys(recipe.languages, 0), dict.fromkeys(recipe.languages, 0)
    if found is not None:
        _check_data(found, identity["data"], recipe)
        step, words, targets = found.state["step"], found.state["words"], found.state.get("targets", targets)
    new_targets = torch.zeros(len(targets), dtype=torch.float64, device=world.device)  # of this rank, since `targets`

    evaluated = step if found is not None and not found.state.get("evaluation_due", False) else None
    saved = step if found is not None else None
    world.on_first(lambda: check_space(recipe, context.folder))

    # --- engine, data ---
    rate = learning_rate(recipe.align if stage == "align" else recipe.pretrain, plan.steps)
    engine = build_engine(recipe, world, initial_value, rate)
    if found is not None:
        checkpoints.load(engine, found)
    if recipe.parallel.compile and stage == "pretrain":
        engine.compile()
    engine.register_forward_pre_hook(lambda module, arguments: context.safe_point())
    streams = context.data.streams(code_switch=stage == "pretrain")
    dataset = StageDataset(streams, plan.mixture, int(mix(recipe.seed, Draw.WINDOW_ORDER)))
    batches = micro_batches(
        dataset,
        global_batch_size=recipe.batch.global_batch_size,
        micro_batch_size=recipe.batch.micro_batch_size,
        rank=world.row_rank,
        ranks=world.row_ranks,
        first_step=step,
        steps=last,
        workers=recipe.loader_workers,
        pin_memory=world.device.type == "cuda",
        on_worker_start=ignore_signals,
    )
    every = 1 if stage == "align" else recipe.pretrain.align_every
    words_of = word_batches(recipe, context.data, stage) if every is not None else None
    if context.log is not None:
        context.log.cut(stage, step if found is not None else -1, evaluated == step)
    guard = AnomalyGuard(
        recipe,
        world,
        dataset,
        decode=lambda ids: context.data.tokenizer.decode(ids % recipe.data.tokenizer.vocab_size),
        folder=context.folder,
        step=step,
        state=found.state.get("anomalies") if found is not None else None,
        say=lambda line: display.say(f"{stage}: {line}"),
    )

    def spent() -> Account:
        return consumed.plus(Account(plan.text_tokens(recipe, step), dict(words), step, dict(targets)))

    def count_targets() -> None:
        """Bring ``targets`` up to date; all ranks call it."""
        for name, count in zip(targets, world.sum(new_targets).tolist()):
            targets[name] += round(count)
        new_targets.zero_()

    def evaluation_due() -> bool:
        facts = stage == "pretrain" and recipe.facts is not None and recipe.facts.ends_at(step)
        return evaluated != step and (step % recipe.evaluation.every == 0 or step == last or facts)

    def evaluate() -> None:
        nonlocal evaluated
        engine.eval()
        results = context.evaluate(engine, stage, step)
        engine.train()
        if context.log is not None:
            row = {"kind": "eval", "stage": stage, "step": step, "tokens": spent().tokens} | results
            context.log.write(row)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in results.items() if key.startswith("perplexity"))
            display.say(f"{stage} {step}: {shown}")
            for line in alignment_lines(results.get("alignment", {})):
                display.say(line)
        evaluated = step

    def checkpoint() -> None:
        nonlocal saved
        count_targets()
        state = {"step": step, "words": words, "targets": targets} | identity
        state |= {"evaluation_due": evaluation_due(), "anomalies": guard.state}
        checkpoints.save(engine, step, state)
        saved = step

    @contextmanager
    def left_in_order() -> Iterator[None]:
        try:
            yield
        except Interrupted:
            if saved != step:  # what a step has done of its forward passes is given up
                checkpoint()
            checkpoints.wait()
            display.say(f"stopped: {stage} after {step} of {plan.steps} steps; the same command goes on from there")
            raise
        except RolledBack as decision:
            display.say(f"{stage}: {decision}")
            engine.destroy()
            raise

    with Display(stage, plan.steps, step, enabled=world.is_first) as display, left_in_order():
        if evaluation_due():
            evaluate()
        since, since_step, clock, save_due = time.perf_counter(), step, Clock(), False

        # --- the loop ---
        while step < last:
            with clock.part("wait"):
                micro = next(batches)
                word_batch = words_of.batch(step) if words_of and every and step % every == 0 else None
            sums = take_step(engine, recipe, world, micro, word_batch, clock, guard)
            step += 1
            new_targets += sums.targets
            if word_batch is not None:
                for name, count in word_batch.tokens_per_language().items():
                    words[name] += count

            # once in a while: log (all ranks take part in the sums)
            if step % recipe.log.every == 0 or step == last:
                row = sums.row() | {"learning_rate": rate(step - 1)}
                seconds = time.perf_counter() - since
                tokens_per_step = recipe.batch.global_batch_size * recipe.model.context
                row["tokens_per_second"] = (step - since_step) * tokens_per_step / seconds
                row["data_wait"] = clock.seconds["wait"] / seconds
                since, since_step, clock = time.perf_counter(), step, Clock()
                if context.log is not None:
                    context.log.write({"kind": "train", "stage": stage, "step": step, "tokens": spent().tokens} | row)
                    display.show(step, _note(row))

            # once in a while: evaluate (all ranks)
            if evaluation_due():
                evaluate()
                since, since_step, clock = time.perf_counter(), step, Clock()

            # once in a while: checkpoint (all ranks); on a full disk, as soon as there is room
            save_due = saved != step and (save_due or step % recipe.checkpoint.every == 0 or step == last)
            if save_due and step < last and not has_room(recipe, context.folder, world):
                if step % recipe.checkpoint.every == 0:
                    display.say(f"no room for a checkpoint in {context.folder}: training goes on; free space")
            elif save_due:
                checkpoint()
                save_due = False
                since, since_step, clock = time.perf_counter(), step, Clock()
            checkpoints.poll()
            display.advance(step)

    checkpoints.wait()
    if step == plan.steps:
        count_targets()
        state = {"stage": stage} | asdict(spent()) | identity
        save_weights(engine, world, context.folder / "weights", state)
    engine.destroy()
    return step == plan.steps


def _check_data(checkpoint: Checkpoint, data: str, recipe: Recipe) -> None:
    """A checkpoint goes on with the data that it was trained on."""
    if checkpoint.state["data"] != data and not recipe.checkpoint.allow_changed_data:
        raise UserError(
            f"{checkpoint.folder}: trained on data {checkpoint.state['data'][:12]}...; {recipe.data.dir} holds "
            f"{data[:12]}...; restore the prepared data, choose another run_dir, or set "
            f"checkpoint.allow_changed_data=true"
        )


def _note(row: dict[str, Any]) -> str:
    parts = [f"lm {row['lm_loss']:.4f}"]
    if "align_loss" in row:
        parts.append(f"align {row['align_loss']:.3f}")
    parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
