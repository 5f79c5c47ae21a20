"""Word batches of a stage: what they are drawn from, how many words each has, and what they add up to."""

import math
from collections.abc import Sequence

import numpy as np

from prealign.config import Recipe, load_recipe
from prealign.config.stage import Stage
from prealign.data.prepared import PreparedData
from prealign.data.word_batches import WordBatches, table_rows
from prealign.errors import UserError
from prealign.lexicon.compiled import FORMS
from prealign.training.plan import align_plan


def word_batches(stage: Stage, data: PreparedData) -> WordBatches:
    """What a stage draws its words from. Raises `UserError` where there are no translations, and `ValueError` where it
    has no word batches."""
    if stage.word_steps is None:
        raise ValueError(f"the {stage.name} stage has no word batches")
    if data.lexicon is None:
        raise UserError(
            f"{stage.word_steps.requested_by} without translations; expected dictionaries (languages.*.dictionaries) "
            f"or a clone language"
        )
    return WordBatches(data.lexicon, stage.recipe.align, stage.word_steps.seed)


def with_words_per_step(recipe: Recipe, data: PreparedData, stages: Sequence[str] = ()) -> Recipe:
    """The recipe with `align.words_per_step` in place of `align.coverage`: ``coverage x rows of the table / steps of
    the align stage``, at most the whole table; where the run starts from another one's align stage, that one's number.

    Unchanged where it has no coverage, or where neither the recipe nor ``stages`` (those that are asked for beside its
    own) have an align stage and it starts from none. Raises `UserError`.
    """
    align, origin = recipe.align, recipe.pretrain.init_from
    if align.coverage is None or data.lexicon is None:
        return recipe
    if recipe.aligns or "align" in stages:
        rows = table_rows(data.lexicon, align.max_translations)
        words = max(2, min(rows, math.ceil(align.coverage * rows / align_plan(recipe).steps)))
    elif origin is not None and (origin / "recipe.yaml").is_file():
        path = origin / "recipe.yaml"
        found = load_recipe(str(path)).align.words_per_step
        if found is None:
            raise UserError(
                f"{path}: found no align.words_per_step; expected the number that its align stage was trained with, "
                f"which align.coverage takes over; set align.words_per_step here, and align.coverage=null"
            )
        words = found
    else:
        return recipe
    return recipe.model_copy(update={"align": align.model_copy(update={"coverage": None, "words_per_step": words})})


def check_word_lengths(recipe: Recipe, data: PreparedData) -> None:
    """Raise `UserError` where a word of the table has more tokens than the model has positions."""
    lexicon = data.lexicon
    if recipe.model.positions != "learned" or lexicon is None or len(lexicon) == 0:
        return
    used = np.arange(len(lexicon.usual_form)) * FORMS + lexicon.usual_form
    longest = int(lexicon.form_lengths[used].max())
    if longest > recipe.model.context:
        raise UserError(
            f"model.context: found {recipe.model.context}; the longest word of the table has {longest} tokens; "
            f"expected as many positions at least; raise it, or set model.positions=rotary"
        )


def word_tokens(stage: Stage, data: PreparedData, steps: int) -> dict[str, int]:
    """Tokens of a stage's word batches in so many steps, per language. Raises `UserError`."""
    totals = dict.fromkeys(stage.recipe.languages, 0)
    if stage.word_steps is None:
        return totals
    batches = word_batches(stage, data)
    for step in stage.steps_with_words(steps):
        for name, count in batches.batch(step).tokens_per_language().items():
            totals[name] += count
    return totals
