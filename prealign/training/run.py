"""A run: the recipe's stages in order, each from where it stands."""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from prealign.config import Recipe, dump_recipe, load_recipe
from prealign.config.recipe import StageName
from prealign.config.running import ParallelConfig
from prealign.config.stage import STAGES, Stage, align_stage, stage_of
from prealign.data.prepared import PreparedData
from prealign.distributed.engine import InitialValue
from prealign.distributed.weights import Weights, read_state
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.interop.hf_tokenizer import check_ranks
from prealign.interop.hf_weights import HuggingFaceWeights
from prealign.interop.hub import checkpoint_folder
from prealign.interop.new_rows import NewRows, new_rows
from prealign.model.initialisation import initial_value
from prealign.objectives.terms import Objective
from prealign.training.anomalies import RolledBack
from prealign.training.fp8 import check_fp8
from prealign.training.machine import attention_of
from prealign.training.metrics import MetricsLog
from prealign.training.operations import Operations
from prealign.training.plan import Account, StagePlan, align_plan, micro_batch_note, plan_of, pretrain_plan
from prealign.training.run_lock import only_run
from prealign.training.space import check_writable
from prealign.training.stage import Evaluate, Hook, StageContext, StageRun
from prealign.training.trackers import trackers
from prealign.training.words import check_word_lengths, with_words_per_step

_FREE = (
    "run_dir",
    "checkpoint",
    "log",
    "evaluation",
    "loader_workers",
    "deepspeed",
    "translation",
    "anomalies",
    "watchdog",
)
_MAY_CHANGE: Any = {
    **dict.fromkeys(_FREE, True),
    "batch": {"micro_batch_size"},
    "parallel": ParallelConfig.model_fields.keys() - {"precision"},
}
"""Recipe sections, and keys in them, that do not bear on what is learned; a run goes on when they differ from its first
start."""


_PATHS = ("data.dir", ".text.files", ".text.store", ".dictionaries", "tokenizer.ranks", "facts.relations")
"""Keys that say where prepared data is, or was made from; whether it is the same, its fingerprint says."""


def run_stages(
    recipe: Recipe,
    world: World,
    data: PreparedData,
    evaluate: Evaluate,
    say: Callable[[str], None],
    only: StageName | None = None,
    stop_after: int | None = None,
    safe_point: Callable[[], None] = lambda: None,
    hooks: Sequence[Hook] = (),
    objectives: Sequence[Objective] = (),
) -> None:
    """Train what is not trained yet.

    ``only``: run this stage alone. ``stop_after``: leave every stage after as many steps, as an interruption would.
    ``say`` gets lines for the user, on the first rank. ``safe_point`` is called before every forward pass, on all
    ranks, and may raise `Interrupted` on all of them. ``hooks`` are called after every step. ``objectives`` are terms
    of the loss beside the two of the paper.
    """
    _check_equal_recipes(recipe, world)
    check_fp8(recipe, world)
    check_word_lengths(recipe, data)
    coverage = recipe.align.coverage
    names = recipe.stages if only is None else [only]
    recipe = with_words_per_step(recipe, data, names)
    folder = recipe.folder
    left = [name for name in names if read_state(folder / name / "weights") is None]
    stages = [stage_of(recipe, name, world.dp_size) for name in left]
    notes = [micro_batch_note(stage, recipe, world.dp_size) for stage in stages]
    for note in notes if world.is_first else []:
        if note is not None:
            say(note)
    if stages:
        attention = attention_of(recipe, world.device)  # on all ranks, as it may refuse what is asked for
        if world.is_first:
            say(f"attention: {attention}")
    if left == list(STAGES):
        aligned = align_plan(recipe)  # ranges of steps which no pretrain stage has are refused before the align stage
        pretrain_plan(recipe, Account(aligned.text_tokens(recipe), dict.fromkeys(recipe.languages, 0), aligned.steps))
    with only_run(world, folder, say) if stages else contextlib.nullcontext():
        world.on_first(lambda: _claim(recipe, coverage, say))
        check_writable(folder, world.rank)
        log = MetricsLog(folder, recipe.align.layers, trackers(recipe, folder, say)) if world.is_first else None
        operations = Operations(recipe)
        try:
            for stage in stages:
                context = StageContext(
                    stage,
                    world,
                    data,
                    folder / stage.name,
                    log,
                    evaluate,
                    operations,
                    stop_after,
                    safe_point,
                    tuple(hooks),
                    tuple(objectives),
                )
                initial, consumed, plan = _start(stage, recipe, data)
                if not _run_with_rollbacks(context, plan, initial, consumed):
                    if world.is_first:
                        say(
                            f"stopped: {stage.name} after {stop_after} of {plan.steps} steps; the same command goes on "
                            f"from there"
                        )
                    return
        finally:
            if log is not None:
                log.close()
        if world.is_first:
            account = finished_account(recipe)
            words = account.tokens - account.text_tokens
            beside = f" and {words:,} of word batches" if words else ""
            say(f"finished: {folder} ({account.text_tokens:,} tokens of text{beside} in {account.steps} steps)")


def _start(stage: Stage, recipe: Recipe, data: PreparedData) -> tuple[InitialValue, Account, StagePlan]:
    """What a stage starts from: weights, what the run has consumed before it, and its plan."""
    if stage.name == "align":
        initial, consumed = first_weights(recipe, data), Account.empty(recipe)
    else:
        initial, consumed = pretrain_start(recipe, data)
    return initial, consumed, plan_of(recipe, stage.name, consumed)


def _run_with_rollbacks(context: StageContext, plan: StagePlan, initial: InitialValue, consumed: Account) -> bool:
    """A stage, again from its last checkpoint as often as it asks for that."""
    while True:
        with contextlib.suppress(RolledBack):
            return StageRun(context, plan, initial, consumed).run()


def finished_account(recipe: Recipe) -> Account:
    """What the run's last finished stage had consumed."""
    for name in reversed(STAGES):
        state = read_state(recipe.folder / name / "weights")
        if state is not None:
            return Account(state["text"], state["words"], state["steps"], state.get("targets", {}))
    return Account.empty(recipe)


def pretrain_start(recipe: Recipe, data: PreparedData) -> tuple[InitialValue, Account]:
    """Initial weights of the pretrain stage and what the align stage before it has consumed."""
    if recipe.aligns:
        origin = recipe.folder
    elif recipe.pretrain.init_from is not None:
        origin = recipe.pretrain.init_from
    else:
        return first_weights(recipe, data), Account.empty(recipe)
    folder = origin / "align" / "weights"
    state = read_state(folder)
    if state is None:
        raise UserError(f"{folder}: no such weights; expected a finished align stage; run it first")
    if list(state["text"]) != list(recipe.languages):
        raise UserError(
            f"{folder}: aligned for languages {list(state['text'])}; the recipe has {list(recipe.languages)}"
        )
    data.check_trained_on(align_stage(recipe), folder, state["data"])
    return Weights(folder).value, Account(state["text"], state["words"], state["steps"], state.get("targets", {}))


def first_weights(recipe: Recipe, data: PreparedData) -> InitialValue:
    """What a run starts from: random weights, or those of a checkpoint (`model.init`). Raises `UserError` where that is
    not of the recipe's model, or of the data's tokenizer."""
    if recipe.model.imported_from is not None:
        folder = checkpoint_folder(recipe.model.imported_from)
        return HuggingFaceWeights(folder, recipe, first_new_rows(folder, recipe, data)).value

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        return initial_value(name, shape, recipe)

    return value


def first_new_rows(folder: Path, recipe: Recipe, data: PreparedData) -> NewRows | None:
    """The rows of tokens that a checkpoint lacks; None where it has them all. Raises `UserError`."""
    known = check_ranks(folder, data.tokenizer, recipe.data.tokenizer.given_size)
    return None if known == recipe.data.tokenizer.vocab_size else new_rows(recipe, data)


_OF_A_RANK = ("run_dir", "data.dir", "loader_workers", "pretrain.init_from", "model.init", *_PATHS)
"""Keys that machines may have values of their own of."""


def _check_equal_recipes(recipe: Recipe, world: World) -> None:
    """Raise `UserError` on all ranks where one of them reads another recipe, as from a checkout of its own."""
    recipes = world.gather(_flat(recipe.model_dump(mode="json")))
    for rank, other in enumerate(recipes):
        for key in sorted(recipes[0].keys() | other.keys()):
            if recipes[0].get(key) != other.get(key) and not key.endswith(_OF_A_RANK):
                raise UserError(
                    f"{key}: found {other.get(key)} on rank {rank}, and {recipes[0].get(key)} on rank 0; expected one "
                    f"recipe on all ranks; compare recipe files, command lines and versions of the trainer"
                )


_OF_A_RUN = (
    "metrics.jsonl",
    "starts.jsonl",
    "wandb_id",
    "wandb",
    "tensorboard",
    "report",
    *STAGES,
)
"""What a run that is not trained yet may have left in its folder, beside its recipe."""


def _claim(recipe: Recipe, coverage: float | None, say: Callable[[str], None]) -> None:
    """Write the recipe into its run folder, where nothing was trained by another recipe; ``coverage`` as in
    `check_same_run`. The lock of the folder is held."""
    replaced = check_same_run(recipe, coverage)
    folder = recipe.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if replaced is not None:
            say(replaced)
            for name in _OF_A_RUN:  # before the recipe: who is killed here finds the old one again, and goes on
                _remove(folder / name)
        write_atomically(folder / "recipe.yaml", dump_recipe(recipe))
    except OSError as error:
        raise UserError(f"run_dir: '{folder}' cannot be written ({error.strerror}); choose another folder") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_same_run(recipe: Recipe, coverage: float | None) -> str | None:
    """Raise `UserError` where the recipe's run folder holds what another recipe trained, or checkpoints without one. A
    line for the user where another recipe is there, of which nothing was trained: this one replaces it. ``coverage``:
    what the recipe's words per step were made of."""
    folder = recipe.folder
    path = folder / "recipe.yaml"
    if path.is_file():
        if _holds_training(folder):
            if (difference := _difference(recipe, path, coverage)) is not None:
                raise UserError(f"{path}: the run there has {difference}")
            return None
        with contextlib.suppress(UserError):  # a recipe that cannot be read is another one
            if _difference(recipe, path, coverage) is None:
                return None
        return f"note: {path} is of another recipe, of which nothing was trained; this one replaces it"
    if left := [str(each) for name in STAGES for each in (folder / name).glob("*/*")]:
        raise UserError(
            f"{path}: no such file beside {left[0]}; expected the recipe of the run that is there; restore it, or "
            f"choose another run_dir"
        )
    return None


def _holds_training(folder: Path) -> bool:
    """Whether a run folder holds checkpoints, weights, what was made of weights that are elsewhere now, or metrics of
    steps, which are somebody's though no checkpoint came of them."""
    trained = [folder / name for name in ("evaluation", "export")]
    trained += [folder / name / "weights" for name in STAGES]
    saved = (each for name in STAGES for each in (folder / name / "checkpoints").glob("step-*"))
    metrics = folder / "metrics.jsonl"
    measured = metrics.is_file() and metrics.stat().st_size > 0
    return measured or any(each.exists() for each in trained) or any(saved)


def _difference(recipe: Recipe, path: Path, coverage: float | None) -> str | None:
    """How the recipe of a run at ``path`` differs from this one in what is learned, and what to do; None where it does
    not. Raises `UserError` where it cannot be read."""
    old = comparable(load_recipe(str(path)))
    new = comparable(recipe)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key.endswith(_PATHS):
            continue
        if key == "align.words_per_step" and coverage is not None:
            return (
                f"{key}={old.get(key)}; align.coverage={coverage:g} makes {new.get(key)} of the table that is prepared "
                f"now; choose another run_dir, or go on with {key}={old.get(key)} align.coverage=null"
            )
        return f"{key}={old.get(key)}; the recipe has {key}={new.get(key)}; choose another run_dir"
    return None


def comparable(recipe: Recipe) -> dict[str, str]:
    """Dotted key -> value (as JSON) of all of a recipe that bears on what is learned; `align` does not where
    there are no word batches."""
    values = recipe.model_dump(mode="json", exclude=_MAY_CHANGE)
    if not recipe.aligns and recipe.pretrain.align_every is None:
        del values["align"]
    return _flat(values)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted key -> JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat
