"""One training stage, from its first step (or its last checkpoint) to its weights."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prealign.config.stage import Stage
from prealign.data.loader import MicroBatch, StageDataset, micro_batches
from prealign.data.prepared import PreparedData
from prealign.distributed.checkpoints import Checkpoint, Checkpoints
from prealign.distributed.engine import Engine, InitialValue, build_engine, held_weights
from prealign.distributed.weights import save_weights
from prealign.distributed.world import World
from prealign.errors import Interrupted, UserError
from prealign.evaluation.aligned import alignment_lines
from prealign.objectives.inputs import WordInputs
from prealign.objectives.terms import Objective
from prealign.random_streams import Draw, mix
from prealign.training.anomalies import AnomalyGuard, RolledBack
from prealign.training.clock import Clock, Throughput
from prealign.training.compilation import prepare_passes
from prealign.training.machine import attention_of, device_name, peak_memory_gb
from prealign.training.metrics import Display, MetricsLog
from prealign.training.operations import Operations
from prealign.training.plan import Account, StagePlan
from prealign.training.schedule import learning_rate
from prealign.training.signals import ignore_signals
from prealign.training.space import check_space, has_room
from prealign.training.step import StepSums, take_step
from prealign.training.step_words import StepWords, step_words
from prealign.training.words import word_batches

Evaluate = Callable[[torch.nn.Module, Stage, int, bool], dict[str, Any]]
"""(model, stage, step, whether it is the stage's last) -> numbers by name, the same on all ranks, which all call it."""

Hook = Callable[["StageRun", StepSums], None]
"""Called on all ranks after every step, in the same order, with what the step measured on this rank."""


@dataclass(frozen=True)
class StageContext:
    """What a stage works with."""

    stage: Stage
    world: World
    data: PreparedData
    folder: Path
    """``RUN/align`` or ``RUN/pretrain``."""
    log: MetricsLog | None
    """None on all ranks but the first."""
    evaluate: Evaluate
    operations: Operations
    stop_after: int | None = None
    """Leave the stage after so many steps, with a checkpoint, as an interruption would."""
    safe_point: Callable[[], None] = lambda: None
    """Called on all ranks before every forward pass; may raise `Interrupted` on all of them."""
    hooks: tuple[Hook, ...] = ()
    """Called after `StageRun`'s own."""
    objectives: tuple[Objective, ...] = ()
    """Terms of the loss beside the two of the paper."""


@dataclass
class Progress:
    """Where a stage stands. Checkpoints hold it."""

    step: int
    """Optimizer steps made."""
    words: dict[str, int]
    """Tokens of word batches, per language."""
    targets: dict[str, int]
    """Positions of text that had a target, per language, up to the last checkpoint."""
    evaluated: int | None = None
    """Step of the last evaluation."""
    saved: int | None = None
    """Step of the last checkpoint."""

    @classmethod
    def after(cls, checkpoint: Checkpoint | None, languages: list[str]) -> "Progress":
        """Where a stage goes on from; None: from its beginning."""
        if checkpoint is None:
            return cls(0, dict.fromkeys(languages, 0), dict.fromkeys(languages, 0))
        state = checkpoint.state
        step = state["step"]
        targets = state.get("targets", dict.fromkeys(languages, 0))
        return cls(step, state["words"], targets, None if state.get("evaluation_due") else step, step)


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step reads on this rank."""

    micro: list[MicroBatch]
    words: StepWords | None

    @property
    def word_inputs(self) -> WordInputs | None:
        """What the model takes of the words."""
        return self.words.inputs if self.words is not None else None


class StageRun:
    """A stage that is being trained; every rank makes one. Hooks read its public attributes: ``context``, ``plan`` and
    ``world`` are what it was made with, ``stage`` and ``recipe`` what it trains with, ``progress`` says where it
    stands, ``learning_rate_at`` maps a step to its rate, ``display`` has `say` for the terminal."""

    def __init__(self, context: StageContext, plan: StagePlan, initial_value: InitialValue, consumed: Account) -> None:
        """``consumed``: what the run spent before this stage."""
        world, stage = context.world, context.stage
        self.context = context
        self.plan = plan
        self.world = world
        self.stage = stage
        self.recipe = stage.recipe
        self.last = min(plan.steps, context.stop_after or plan.steps)
        """Steps after which the stage is left."""
        self.hooks: list[Hook] = [
            StageRun.log_if_due,
            StageRun.evaluate_if_due,
            StageRun.save_if_due,
            StageRun.show,
            *context.hooks,
        ]
        self._consumed = consumed
        self._identity: dict[str, Any] = {"data": context.data.fingerprint_of(stage)}
        if context.objectives:
            self._identity["objectives"] = [
                getattr(each, "__name__", type(each).__name__) for each in context.objectives
            ]

        # --- where the stage stands ---
        self._checkpoints = Checkpoints(context.folder / "checkpoints", world, self.recipe.checkpoint)
        found = self._checkpoints.find()
        if found is not None:
            context.data.check_trained_on(stage, found.folder, found.state["data"])
            _check_objectives(found, self._identity.get("objectives", []))
        self.progress = Progress.after(found, list(self.recipe.languages))
        self.display = Display(stage.name, plan.steps, self.step, enabled=world.is_first)
        self._new_targets = torch.zeros(len(self.progress.targets), dtype=torch.float64, device=world.device)
        self._save_due = False
        self._last_perplexity = 0.0
        world.on_first(lambda: check_space(self.recipe, context.folder))

        # --- engine ---
        self.learning_rate_at = learning_rate(stage.schedule, plan.steps)
        self.engine = self._build_engine(initial_value, found)

        # --- data ---
        self._dataset = StageDataset(
            context.data.streams(stage.code_switch),
            plan.mixture,
            int(mix(self.recipe.seed, Draw.WINDOW_ORDER)),
        )
        self._micro_batch_iterator = self._micro_batches()
        self._word_steps = stage.steps_with_words(plan.steps)
        self._words = self._step_words()
        tokens_per_step = self.recipe.batch.global_batch_size * self.recipe.model.context
        self.throughput = Throughput(tokens_per_step, self.progress.step)

        if context.log is not None:
            at = self.progress.step if found is not None else -1
            context.log.cut(stage.name, at, self.progress.evaluated == self.progress.step)
            before = context.log.last_start(stage.name).get("compiled", self.compiled)
            if found is not None and before != self.compiled:
                words = "passes were compiled" if before else "passes were not compiled"
                self.display.say(f"{stage.name}: {words} before; losses differ by rounding from here on")
            setup = {"ranks": world.world_size, "device": device_name(world.device), "compiled": self.compiled}
            setup["attention"] = attention_of(self.recipe, world.device)
            context.log.start(stage.name, self.step, plan.steps, setup)
        display = self.display  # the guard does not hold this object, which holds it
        self.guard = AnomalyGuard(
            self.recipe,
            world,
            self._dataset,
            decode=lambda ids: context.data.tokenizer.decode(ids % self.recipe.data.tokenizer.vocab_size),
            folder=context.folder,
            step=self.progress.step,
            state=found.state.get("anomalies") if found is not None else None,
            say=lambda line: display.say(f"{stage.name}: {line}"),
        )

    @property
    def step(self) -> int:
        """Optimizer steps made."""
        return self.progress.step

    @property
    def spent(self) -> Account:
        """What the run has consumed, this stage included."""
        progress = self.progress
        text = self.plan.text_tokens(self.recipe, progress.step)
        return self._consumed.plus(Account(text, dict(progress.words), progress.step, dict(progress.targets)))

    # --- the loop ---

    def run(self) -> bool:
        """Train to the stage's end and write its weights to ``folder/weights``; False if it was stopped before.

        Raises `Interrupted`, with a checkpoint, and `RolledBack` when the stage is to be run again.
        """
        with self.display, self._checkpoint_on_interrupt():
            self.evaluate_if_due()
            self.throughput.restart(self.step)
            while self.step < self.last:
                batch = self.next_batch()
                sums = self.take_step(batch)
                self.advance(batch, sums)
                for hook in self.hooks:
                    hook(self, sums)
        return self._finish()

    @property
    def clock(self) -> Clock:
        """Times parts of the step that is being made."""
        return self.throughput.clock

    def next_batch(self) -> StepBatch:
        """What the next step reads."""
        with self.clock.part("wait"):
            micro = next(self._micro_batch_iterator)
            return StepBatch(micro, next(self._words) if self.step in self._word_steps else None)

    def take_step(self, batch: StepBatch) -> StepSums:
        """Forward, backward, optimizer."""
        words = batch.word_inputs
        return take_step(self.engine, self.recipe, self.world, batch.micro, words, self.clock, self.guard)

    def advance(self, batch: StepBatch, sums: StepSums) -> None:
        """Count the step that was made, its targets and the tokens of its words."""
        self.progress.step += 1
        self._new_targets += torch.stack([sums.count(f"lm_loss/{name}") for name in self.progress.targets])
        if batch.words is not None:
            for name, count in batch.words.tokens.items():
                self.progress.words[name] += count

    # --- hooks ---

    def log_if_due(self, sums: StepSums) -> None:
        """Every `log.every` steps, and after the last: the step's losses and the speed since the row before."""
        if self.step % self.recipe.log.every and self.step != self.last:
            return
        row = sums.row() | {"learning_rate": self.learning_rate_at(self.step - 1)} | self.throughput.row(self.step)
        if self.context.log is not None:
            row["peak_memory_gb"] = peak_memory_gb(self.world.device)
            self.context.log.write(self._row_header("train") | row)
            self.display.show(self.step, _note(row))

    def evaluate_if_due(self, sums: StepSums | None = None) -> None:
        """Every `evaluation.every` steps, before the first, after the last and where a period of facts ends."""
        if not self._evaluation_due():
            return
        self.engine.eval()
        results = self.context.evaluate(self.engine, self.stage, self.step, self.step == self.plan.steps)
        self.engine.train()
        self._last_perplexity = sum(value for key, value in results.items() if key.startswith("perplexity"))
        if self.context.log is not None:
            self.context.log.write(self._row_header("eval") | results)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in results.items() if key.startswith("perplexity"))
            self.display.say(f"{self.stage.name} {self.step}: {shown}")
            for line in alignment_lines(results.get("alignment", {})):
                self.display.say(line)
        self.progress.evaluated = self.step
        self.throughput.restart(self.step)

    def save_if_due(self, sums: StepSums) -> None:
        """Every `checkpoint.every` steps, and after the last; on a full disk, as soon as there is room."""
        settings = self.recipe.checkpoint
        regular = self.step % settings.every == 0
        self._save_due |= regular or self.step == self.last
        if not self._save_due:
            return
        if self.step < self.last and not has_room(self.recipe, self.context.folder, self.world):
            if regular:
                self.display.say(f"no room for a checkpoint in {self.context.folder}: training goes on; free space")
            return
        self.save()

    def show(self, sums: StepSums) -> None:
        """Complete what is being written, move the progress bar."""
        self._checkpoints.poll()
        self.display.advance(self.step)

    # --- parts of them ---

    def save(self) -> None:
        """Write a checkpoint of the step."""
        self._count_targets()
        progress = self.progress
        state = {"step": progress.step, "words": progress.words, "targets": progress.targets} | self._identity
        state |= {"evaluation_due": self._evaluation_due(), "anomalies": self.guard.state}
        self._checkpoints.save(self.engine, progress.step, state)
        progress.saved = progress.step
        self._save_due = False
        self.throughput.restart(progress.step)

    def _row_header(self, kind: str) -> dict[str, Any]:
        spent = self.spent
        align_steps = self.step if self.stage.name == "align" else self._consumed.steps
        tflop = self.context.operations.of(spent, align_steps) / 1e12
        return {"kind": kind, "stage": self.stage.name, "step": self.step, "tokens": spent.tokens, "tflop": tflop}

    def _evaluation_due(self) -> bool:
        step, facts = self.step, self.stage.facts
        period_ends = facts is not None and facts.ends_at(step)
        regular = step % self.recipe.evaluation.every == 0
        return self.progress.evaluated != step and (regular or step == self.last or period_ends)

    def _count_targets(self) -> None:
        """Bring ``progress.targets`` up to date; all ranks call it."""
        for name, count in zip(self.progress.targets, self.world.sum(self._new_targets).tolist()):
            self.progress.targets[name] += round(count)
        self._new_targets.zero_()

    def _build_engine(self, initial_value: InitialValue, found: Checkpoint | None) -> Engine:
        engine = build_engine(self.recipe, self.world, initial_value, self.learning_rate_at, self.context.objectives)
        if found is not None:
            self._checkpoints.load(engine, found)
        self.compiled = prepare_passes(engine, self.stage, self.world, self.display.say)
        """Whether passes run through torch.compile."""
        safe_point = self.context.safe_point
        engine.register_forward_pre_hook(lambda module, arguments: safe_point())
        return engine

    def _micro_batches(self) -> Generator[list[MicroBatch]]:
        return micro_batches(
            self._dataset,
            global_batch_size=self.recipe.batch.global_batch_size,
            micro_batch_size=self.recipe.batch.micro_batch_size,
            dp_rank=self.world.dp_rank,
            dp_size=self.world.dp_size,
            first_step=self.step,
            steps=self.last,
            workers=self.recipe.loader_workers,
            pin_memory=self.world.device.type == "cuda",
            on_worker_start=ignore_signals,
        )

    def _step_words(self) -> Generator[StepWords]:
        if self.stage.word_steps is None:
            return
        batches, left = word_batches(self.stage, self.context.data), range(self.step, self.last)
        steps = [step for step in self._word_steps if step in left]
        yield from step_words(batches, self.world, steps, self.recipe.loader_workers, ignore_signals)

    @contextmanager
    def _checkpoint_on_interrupt(self) -> Iterator[None]:
        """An interruption leaves a checkpoint of the last whole step; a rollback frees the engine."""
        stage = self.stage.name
        try:
            yield
            self._checkpoints.wait()
        except Interrupted:
            if self.progress.saved != self.step:
                self.save()
            self._checkpoints.wait()
            self.display.say(
                f"stopped: {stage} after {self.step} of {self.plan.steps} steps; the same command goes on from there"
            )
            raise
        except RolledBack as decision:
            self.display.say(f"{stage}: {decision}")
            self._checkpoints.wait()  # the stage goes back to it
            self.engine.destroy()
            raise
        finally:
            self._micro_batch_iterator.close()  # loader processes end here, not when this object is collected
            self._words.close()

    def _finish(self) -> bool:
        finished = self.step == self.plan.steps
        if finished:
            self._check_finite()
            self._count_targets()
            state = {"stage": self.stage.name} | asdict(self.spent) | self._identity
            save_weights(self.engine, self.world, self.context.folder / "weights", state)
        self.engine.destroy()
        return finished

    def _check_finite(self) -> None:
        """A stage whose model is not finite has not finished: nothing can go on from it."""
        weights = held_weights(self.engine)
        finite = not math.isnan(self._last_perplexity) and all(bool(weight.isfinite().all()) for weight in weights)
        if self.world.any(not finite):
            raise UserError(
                f"{self.stage.name}: after its last step ({self.step}) weights or perplexity are not finite; expected "
                f"a model that can be used; lower {self.stage.name}.learning_rate in another run_dir"
            )


def _check_objectives(checkpoint: Checkpoint, names: list[str]) -> None:
    """A checkpoint goes on with the objectives that it was trained with."""
    before = checkpoint.state.get("objectives", [])
    if before != names:
        raise UserError(
            f"{checkpoint.folder}: trained with the objectives {before} beside the recipe's; this start has {names}; "
            f"start it by the same script, or choose another run_dir"
        )


def _note(row: dict[str, Any]) -> str:
    parts = [f"lm {row['lm_loss']:.4f}"] if "lm_loss" in row else []
    if "align_loss" in row:
        parts.append(f"align {row['align_loss']:.3f}")
    parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
