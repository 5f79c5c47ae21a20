"""One training stage, from its first step (or its last checkpoint) to its weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prealign.config import Recipe
from prealign.corpus.loader import MicroBatch, StageDataset, micro_batches
from prealign.corpus.prepared import PreparedData
from prealign.corpus.switching import IGNORED
from prealign.distributed.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from prealign.distributed.engine import InitialValue, build_engine, plain_gradient_norm
from prealign.distributed.weights import save_weights
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.hashing import Draw, mix
from prealign.lexicon.word_batches import WordBatches
from prealign.objectives.inputs import ModelInputs, text_inputs, word_inputs
from prealign.objectives.joint import ModelOutputs
from prealign.training.metrics import Display, MetricsLog
from prealign.training.plan import Account, StagePlan
from prealign.training.schedule import learning_rate

Evaluate = Callable[[torch.nn.Module], dict[str, Any]]
"""Measures a model; all ranks call it, and it returns the same numbers on each."""


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


def run_stage(context: StageContext, plan: StagePlan, initial_value: InitialValue, consumed: Account) -> bool:
    """Train a stage and write its weights to ``folder/weights``; False if it was stopped before its end.

    ``consumed``: what the run spent before this stage.
    """
    recipe, world, stage = context.recipe, context.world, plan.stage
    checkpoints = context.folder / "checkpoints"
    last = min(plan.steps, context.stop_after or plan.steps)
    identity = {"data": context.data.fingerprint, "ranks": world.ranks, "zero_stage": recipe.parallel.zero_stage}

    # --- where the stage stands ---
    found = latest_checkpoint(checkpoints)
    step, words = 0, dict.fromkeys(recipe.languages, 0)
    if found is not None:
        _check_identity(found[0], found[1], identity)
        step, words = found[1]["step"], found[1]["words"]

    # --- engine, data ---
    rate = learning_rate(recipe.align if stage == "align" else recipe.pretrain, plan.steps)
    engine = build_engine(recipe, world, initial_value, rate)
    plain = recipe.parallel.zero_stage == 0 and recipe.parallel.precision == "fp32"  # DeepSpeed keeps no norm then
    if found is not None:
        load_checkpoint(engine, found[0])
    streams = context.data.streams(code_switch=stage == "pretrain")
    dataset = StageDataset(streams, plan.phase, int(mix(recipe.seed, Draw.WINDOW_ORDER)))
    batches = micro_batches(
        dataset,
        global_batch_size=recipe.batch.global_batch_size,
        micro_batch_size=recipe.batch.micro_batch_size,
        rank=world.rank,
        ranks=world.ranks,
        first_step=step,
        steps=last,
        workers=recipe.loader_workers,
        pin_memory=world.device.type == "cuda",
    )
    word_batches = _word_batches(context, stage)
    if context.log is not None:
        context.log.cut(stage, step if found is not None else -1)

    def spent() -> Account:
        text = plan.phase.counts_before(step * recipe.batch.global_batch_size)
        length = recipe.model.context
        return consumed.plus(
            Account({name: text[i] * length for i, name in enumerate(recipe.languages)}, dict(words), step)
        )

    def evaluate() -> None:
        engine.eval()
        results = context.evaluate(engine)
        engine.train()
        if context.log is not None:
            row = {"kind": "eval", "stage": stage, "step": step, "tokens": spent().tokens} | results
            context.log.write(row)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in results.items() if key.startswith("perplexity"))
            display.say(f"{stage} {step}: {shown}")

    with Display(stage, plan.steps, step, enabled=world.is_first) as display:
        if step == 0:
            evaluate()
        since, since_step, waited = time.perf_counter(), step, 0.0

        # --- the loop ---
        while step < last:
            started = time.perf_counter()
            micro = next(batches)
            word_batch = word_batches.batch(step) if word_batches is not None else None
            waited += time.perf_counter() - started

            # A token's loss is divided by the number of targets of the whole step, over all ranks and micro-batches.
            # The engine averages over both; `share` takes that back.
            targets = torch.tensor(sum(int((batch.targets != IGNORED).sum()) for batch in micro), device=world.device)
            share = world.ranks * len(micro)
            text_scale = share / world.sum(targets).clamp(min=1)
            sums = StepSums(recipe, world)
            norm = None
            for number, batch in enumerate(micro):
                inputs = ModelInputs(
                    text_inputs(batch, world.device, recipe.document_ends),
                    # negatives are all words of the step, so the words go through one pass, the first
                    word_inputs(word_batch, world.rank, world.ranks, world.device)
                    if word_batch and number == 0
                    else None,
                    text_scale=text_scale,
                    words_scale=share,
                )
                outputs = engine(inputs)
                engine.backward(outputs["loss"])
                sums.add(batch, outputs)
                if number == len(micro) - 1 and plain:
                    norm = plain_gradient_norm(engine)
                engine.step()
            step += 1
            if word_batch is not None:
                for name, count in word_batch.tokens_per_language().items():
                    words[name] += count

            # once in a while: log (all ranks take part in the sums)
            if step % recipe.log.every == 0 or step == last:
                row = sums.row()
                now = time.perf_counter()
                tokens_per_step = recipe.batch.global_batch_size * recipe.model.context
                row |= {
                    "learning_rate": rate(step - 1),
                    "gradient_norm": float(engine.get_global_grad_norm() if norm is None else norm),
                    "tokens_per_second": (step - since_step) * tokens_per_step / (now - since),
                    "data_wait": waited / (now - since),
                }
                since, since_step, waited = now, step, 0.0
                if context.log is not None:
                    context.log.write({"kind": "train", "stage": stage, "step": step, "tokens": spent().tokens} | row)
                    display.show(step, _note(row))

            # once in a while: evaluate (all ranks)
            if step % recipe.evaluation.every == 0 or step == last:
                evaluate()
                since, since_step, waited = time.perf_counter(), step, 0.0

            # once in a while: checkpoint (all ranks)
            if step % recipe.checkpoint.every == 0 or step == last:
                state = {"step": step, "words": words} | identity
                save_checkpoint(engine, world, checkpoints, step, state, recipe.checkpoint.keep)
                since, since_step, waited = time.perf_counter(), step, 0.0
            display.advance(step)

    if step == plan.steps:
        account = spent()
        state = {"stage": stage, "text": account.text, "words": account.words, "steps": account.steps} | identity
        save_weights(engine, world, context.folder / "weights", state)
    engine.destroy()
    return step == plan.steps


def _check_identity(checkpoint: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """A checkpoint goes on with the data and the layout it was written with."""
    remedies = {
        "data": "restore the prepared data, or choose another run_dir",
        "ranks": "start as many processes",
        "zero_stage": "set parallel.zero_stage back",
    }
    for key, remedy in remedies.items():
        if state[key] != identity[key]:
            raise UserError(f"{checkpoint}: written with {key} {state[key]}; found {identity[key]}; {remedy}")


def _word_batches(context: StageContext, stage: str) -> WordBatches | None:
    if stage != "align":
        return None
    lexicon = context.data.lexicon
    if lexicon is None:
        raise UserError(
            "stages: found 'align' without translations; expected dictionaries (languages.*.dictionaries) or a clone "
            "language"
        )
    return WordBatches(lexicon, context.recipe.align, int(mix(context.recipe.seed, Draw.WORD_BATCHES)))


def _note(row: dict[str, Any]) -> str:
    parts = [f"lm {row['lm_loss']:.4f}"]
    if "align_loss" in row:
        parts.append(f"align {row['align_loss']:.3f}")
    parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


class StepSums:
    """Sums of one step's losses and counts on this rank; `row` adds up the ranks."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        self._languages = list(recipe.languages)
        self._context = recipe.model.context
        self._world = world
        self._nats = torch.zeros(len(self._languages), dtype=torch.float64, device=world.device)
        self._targets = torch.zeros_like(self._nats)
        self._words = torch.zeros(3, dtype=torch.float64)
        self._align: torch.Tensor | None = None

    def add(self, batch: MicroBatch, outputs: ModelOutputs) -> None:
        """Take in one forward pass."""
        losses = outputs["token_losses"]
        assert losses is not None
        rows = losses.detach().view(-1, self._context).sum(dim=1, dtype=torch.float64)
        targets = (batch.targets != IGNORED).sum(dim=1).to(rows)
        parts = zip(rows.split(batch.rows_per_language), targets.split(batch.rows_per_language))
        for language, (nats, count) in enumerate(parts):
            self._nats[language] += nats.sum()
            self._targets[language] += count.sum()
        self._words += batch.words
        if outputs["align_losses"] is not None and outputs["cosines"] is not None:
            self._align = torch.stack((outputs["align_losses"], outputs["cosines"])).double()

    def row(self) -> dict[str, Any]:
        """The step's numbers over all ranks: mean loss per target, in all and per language; alignment loss and mean
        cosine of positives, in all and per layer; share of words replaced, among those with a translation and among
        all."""
        layers = self._align.shape[1] if self._align is not None else 0
        flat = [self._nats, self._targets, self._words.to(self._nats.device)]
        if self._align is not None:
            flat.append(self._align.flatten())
        total = self._world.sum(torch.cat(flat)).tolist()
        count = len(self._languages)
        nats, targets, (words, eligible, switched) = (
            total[:count],
            total[count : 2 * count],
            total[2 * count : 2 * count + 3],
        )
        row: dict[str, Any] = {"lm_loss": sum(nats) / max(sum(targets), 1)}
        row |= {f"lm_loss/{name}": n / t for name, n, t in zip(self._languages, nats, targets) if t > 0}
        if layers:
            losses, cosines = total[2 * count + 3 :][:layers], total[2 * count + 3 :][layers:]
            row |= {"align_loss": sum(losses), "align_loss_layers": losses, "align_cosine_layers": cosines}
        if eligible > 0:
            row |= {"switch_ratio": switched / eligible, "switch_ratio_all_words": switched / words}
        return row
