"""Word batches of a stage: what they are drawn from, how many words each has, and what they add up to."""

import math
from collections.abc import Sequence

from prealign.config import Recipe, load_recipe
from prealign.data.prepared import PreparedData
from prealign.data.word_batches import WordBatches, table_rows
from prealign.errors import UserError
from prealign.random_streams import Draw, mix
from prealign.training.plan import StagePlan, align_plan


def word_batches(recipe: Recipe, data: PreparedData, stage: str = "align") -> WordBatches:
    """What a stage draws its words from. Raises `UserError` where there are no translations."""
    if data.lexicon is None:
        key = "stages: found 'align'" if stage == "align" else "pretrain.align_every: found a number"
        raise UserError(
            f"{key} without translations; expected dictionaries (languages.*.dictionaries) or a clone language"
        )
    seed = mix(recipe.seed, Draw.WORD_BATCHES) if stage == "align" else mix(recipe.seed, Draw.WORD_BATCHES, 1)
    return WordBatches(data.lexicon, recipe.at_stage(stage).align, int(seed))


def with_words_per_step(recipe: Recipe, data: PreparedData, stages: Sequence[str] | None = None) -> Recipe:
    """The recipe with `align.words_per_step` in place of `align.coverage`: ``coverage x rows of the table / steps of
    the align stage``, at most the whole table; where the run starts from another one's align stage, that one's number.

    Unchanged where it has no coverage, or where none of ``stages`` (by default the recipe's) comes with or after an
    align stage. Raises `UserError`.
    """
    align, origin = recipe.align, recipe.pretrain.init_from
    if align.coverage is None or data.lexicon is None:
        return recipe
    if "align" in (stages or recipe.stages):
        rows = table_rows(data.lexicon, align.max_translations)
        words = max(2, min(rows, math.ceil(align.coverage * rows / align_plan(recipe).steps)))
    elif origin is not None and (origin / "recipe.yaml").is_file():
        words = load_recipe(str(origin / "recipe.yaml")).align.words_per_step or 0
    else:
        return recipe
    return recipe.model_copy(update={"align": align.model_copy(update={"coverage": None, "words_per_step": words})})


def word_tokens(recipe: Recipe, data: PreparedData, plan: StagePlan) -> dict[str, int]:
    """Tokens of a stage's word batches, per language. Raises `UserError`."""
    totals = dict.fromkeys(recipe.languages, 0)
    if not (steps := plan.word_steps(recipe)):
        return totals
    batches = word_batches(recipe, data, plan.stage)
    for step in steps:
        for name, count in batches.batch(step).tokens_per_language().items():
            totals[name] += count
    return totals
