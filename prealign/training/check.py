"""What can be checked about a run before it starts, and its plan in numbers."""

import math
import os
from collections.abc import Callable

import numpy as np

from prealign.config import Recipe
from prealign.config.stage import Stage, align_stage, pretrain_stage, stage_of
from prealign.data.prepared import PreparedData
from prealign.data.word_batches import table_rows
from prealign.distributed.world import dp_size
from prealign.errors import UserError
from prealign.interop.hub import checkpoint_folder
from prealign.model.flops import infonce_flops, text_token_flops, word_token_flops
from prealign.model.shapes import vocabulary_ranks
from prealign.training.plan import Account, StagePlan, budgets, micro_batch_note, plan_of, stretches_of
from prealign.training.run import check_same_run, first_new_rows, first_weights, pretrain_start
from prealign.training.space import check_space
from prealign.training.words import check_word_lengths, with_words_per_step, word_batches, word_tokens

_TILE = 128
"""Rows of the LM head that kernels of matrix products take together."""
_ENOUGH = 3
"""Draws of a word that align it, by experience at small scales."""


def check(recipe: Recipe, data: PreparedData, ranks: int, say: Callable[[str], None]) -> None:
    """Check hashes, sizes, divisibility and the run folder (its rights, room, and the recipe that is there), and print
    the plan. Raises `UserError`."""
    data.verify()
    coverage = recipe.align.coverage
    recipe = with_words_per_step(recipe, data)
    check_word_lengths(recipe, data)
    say(f"data: {recipe.data.dir}: every file has the SHA-256 of its manifest")
    parallel = recipe.parallel
    groups = dp_size(ranks, parallel.tensor_parallel_size, parallel.sequence_parallel_size)
    _say_vocabulary(recipe, say)
    if parallel.precision == "fp8":
        say(
            "note: parallel.precision=fp8: cards and torchao were not looked at; training is refused where a rank has "
            "no CUDA device of compute capability 8.9 or more (L40S, H100), or no torchao"
        )
    for name in recipe.stages:
        _say_step(stage_of(recipe, name, groups), recipe, groups, ranks, say)
    if (replaced := check_same_run(recipe, coverage)) is not None:
        say(replaced)
    _check_writable(recipe)
    consumed = Account.empty(recipe)
    if recipe.model.imported_from is not None and recipe.pretrain.init_from is None:
        first_weights(recipe, data)
        say(f"weights: {recipe.model.imported_from} has the shapes and token ids of the recipe")
        if (new := first_new_rows(checkpoint_folder(recipe.model.imported_from), recipe, data)) is not None:
            say(
                f"  {new.tokens:,} tokens are new: {new.translated:,} rows start from translations, the others from "
                f"pieces"
            )
    if recipe.aligns:
        plan = plan_of(recipe, "align", consumed)
        words = _say_plan(align_stage(recipe), data, plan, say)
        consumed = Account(plan.text_tokens(recipe), words, plan.steps)
    elif recipe.pretrain.init_from is not None:
        _, consumed = pretrain_start(recipe, data)
        say(f"starts from {recipe.pretrain.init_from}, which consumed {consumed.tokens:,} tokens")
    if "pretrain" in recipe.stages:
        _say_plan(pretrain_stage(recipe), data, plan_of(recipe, "pretrain", consumed), say)
    say("all checks passed; nothing was trained")


def _say_vocabulary(recipe: Recipe, say: Callable[[str], None]) -> None:
    """A note where tensor ranks share the vocabulary in parts that no tiles fill."""
    ranks = vocabulary_ranks(recipe.padded_vocab_size, recipe.parallel.tensor_parallel_size)
    rows = recipe.padded_vocab_size // ranks
    if ranks > 1 and rows % _TILE:
        say(
            f"note: each of {ranks} tensor ranks holds {rows:,} rows of the vocabulary, no multiple of {_TILE}, which "
            f"leaves tiles of matrix products unfilled; model.vocab_multiple={_TILE * ranks} fills them, in a new run"
        )


def _say_step(stage: Stage, asked: Recipe, groups: int, ranks: int, say: Callable[[str], None]) -> None:
    recipe = stage.recipe
    batch, context = recipe.batch, recipe.model.context
    accumulation = recipe.accumulation(groups)
    say(
        f"{stage.name}: a step is {batch.global_batch_size * context:,} tokens = {batch.micro_batch_size} sequences x "
        f"{context} tokens x {accumulation} micro-batches x "
        + (f"{ranks} ranks" if groups == ranks else f"{groups} groups of {ranks // groups} ranks")
    )
    note = micro_batch_note(stage, asked, groups)
    if note is not None:
        say(f"  {note}")


def _say_plan(stage: Stage, data: PreparedData, plan: StagePlan, say: Callable[[str], None]) -> dict[str, int]:
    """Returns the tokens of the stage's word batches, per language."""
    recipe, words = stage.recipe, word_tokens(stage, data, plan.steps)
    say(f"{stage.name}: {plan.steps:,} steps")
    for (name, tokens), stream in zip(plan.source_tokens(recipe).items(), data.streams(code_switch=False)):
        from_words = f" + {words[name]:,} of words" if words.get(name) else ""
        epochs = tokens / recipe.model.context / stream.windows
        repeated = f" ({epochs:,.1f} epochs)" if epochs > 1 else ""
        if tokens or name in recipe.languages:
            say(f"  {name}: {tokens:,} tokens of text{repeated}{from_words}")
    stretches = stretches_of(plan)
    for stretch in stretches if len(stretches) > 1 else []:
        total = sum(stretch.counts)
        shares = [f"{name} {100 * n / total:.4g} % ({n:,})" for name, n in zip(recipe.sources, stretch.counts) if n]
        say(f"  steps {stretch.first_step:,} to {stretch.end_step:,}, {total:,} samples: {', '.join(shares)}")
    if stage.word_steps is not None:
        _say_coverage(stage, data, plan, words, say)
    return words


def _say_coverage(
    stage: Stage, data: PreparedData, plan: StagePlan, words: dict[str, int], say: Callable[[str], None]
) -> None:
    """How often the stage draws a word of the table, and what its word batches cost beside the text of the run."""
    recipe, batches, steps = stage.recipe, word_batches(stage, data), stage.steps_with_words(plan.steps)
    rows = table_rows(batches.lexicon, recipe.align.max_translations)
    per_step = min(recipe.align.words_per_step or 0, rows)
    entries, share = batches.draws_per_step()
    drawn = share * len(steps)
    counts = batches.lexicon.counts[entries]
    all_words = data.artefacts["lexicon"].facts["source_occurrences"]
    text = sum(tokens or 0 for tokens in budgets(recipe)) or (recipe.mixture.tokens or 0)
    extra = sum(words.values()) * word_token_flops(recipe) + len(steps) * infonce_flops(recipe, per_step)
    say(
        f"  words: {rows:,} in the table, {per_step:,} in each of {len(steps):,} steps; a source word is drawn "
        f"{drawn.mean():.2f} times on average (median {np.median(drawn):.2f}, the rarest {drawn.min():.2f}); those "
        f"drawn {_ENOUGH} times and more are {100 * counts[drawn >= _ENOUGH].sum() / max(all_words, 1):.0f} % of the "
        f"running text"
    )
    say(f"  word batches: {100 * extra / (text * text_token_flops(recipe)):.2g} % of the FLOPs of the run's text")
    if stage.name == "align" and drawn.mean() < 1:
        enough = min(rows, math.ceil(_ENOUGH * rows / len(steps)))
        say(
            f"  warning: words are drawn {drawn.mean():.2f} times on average, too seldom to be aligned ({_ENOUGH} are "
            f"enough); set align.coverage={_ENOUGH} align.words_per_step=null ({enough:,} words a step), or lower "
            f"align.global_batch_size, which gives more steps; align.sampling=frequency aligns frequent words at least"
        )


def _check_writable(recipe: Recipe) -> None:
    folder = recipe.folder
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise UserError(f"run_dir: '{recipe.folder}' cannot be written (no rights in {folder}); choose another folder")
    check_space(recipe, recipe.folder)
