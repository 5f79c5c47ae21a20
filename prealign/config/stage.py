"""What a stage of a run trains with, as one value: whoever holds it need not ask which stage it is."""

from collections.abc import Callable
from dataclasses import dataclass

from prealign.config.facts import FactsConfig
from prealign.config.recipe import Recipe, StageName
from prealign.config.running import Compile, compiles_by_default
from prealign.config.training import ScheduleConfig
from prealign.random_streams import Draw, mix

STAGES: tuple[StageName, ...] = ("align", "pretrain")
"""In the order of a run."""


@dataclass(frozen=True)
class WordSteps:
    """The steps of a stage that take a word batch."""

    every: int
    """The first step and every so many-th after it."""
    seed: int
    """Of the draws of words."""
    requested_by: str
    """What of the recipe asks for them."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: StageName
    recipe: Recipe
    """The run's, but for `batch` and `align`, which are as this stage has them on the ranks that there are."""
    schedule: ScheduleConfig
    """Its learning rate."""
    word_steps: WordSteps | None
    """Which steps take a word batch; None where it trains on text alone."""
    code_switch: bool
    """Whether text in the source language is code-switched."""
    extra_texts: bool
    """Whether it reads the languages' extra texts, and facts."""
    facts: FactsConfig | None
    """Facts that come in periods of its steps."""
    compile: Compile
    """Whether its passes go through `torch.compile`; never where words give every step other shapes. `auto`: as
    `compiles` has it."""
    measures_alignment: bool
    """Whether alignment is measured in full at its end."""

    def compiles(self, on_cuda: bool) -> bool:
        """Whether passes are to be compiled on such a device."""
        parallel = self.recipe.parallel
        sizes = parallel.zero_stage, parallel.tensor_parallel_size, parallel.sequence_parallel_size
        return on_cuda and compiles_by_default(*sizes) if self.compile == "auto" else self.compile

    def steps_with_words(self, steps: int) -> range:
        """Which of its steps, of so many, take a word batch."""
        return range(0, steps, self.word_steps.every) if self.word_steps is not None else range(0)


def align_stage(recipe: Recipe, dp_size: int = 1) -> Stage:
    """The align stage, with ``dp_size`` as in `Recipe.accumulation`. Raises `UserError` where its
    `global_batch_size` does not divide by it."""
    return Stage(
        name="align",
        recipe=recipe.model_copy(update={"batch": recipe.batch_of("align", dp_size)}),
        schedule=recipe.align,
        word_steps=WordSteps(1, int(mix(recipe.seed, Draw.WORD_BATCHES)), "stages: found 'align'"),
        code_switch=False,
        extra_texts=False,
        facts=None,
        compile=False,
        measures_alignment=True,
    )


def pretrain_stage(recipe: Recipe, dp_size: int = 1) -> Stage:
    """The pretrain stage, with the word batches of `pretrain.align_every`; ``dp_size`` as in `align_stage`."""
    own = recipe.pretrain
    recipe = recipe.model_copy(update={"batch": recipe.batch_of("pretrain", dp_size)})
    words = None
    if own.align_every is not None:
        seed = int(mix(recipe.seed, Draw.WORD_BATCHES, 1))
        words = WordSteps(own.align_every, seed, "pretrain.align_every: found a number")
        overrides = {"words_per_step": own.align_words_per_step, "weight": own.align_weight}
        changed = {key: value for key, value in overrides.items() if value is not None}
        recipe = recipe.model_copy(update={"align": recipe.align.model_copy(update=changed)})
    return Stage(
        name="pretrain",
        recipe=recipe,
        schedule=own,
        word_steps=words,
        code_switch=True,
        extra_texts=True,
        facts=recipe.facts,
        compile=_compile(recipe),
        measures_alignment=False,
    )


def _compile(recipe: Recipe) -> Compile:
    """Of the pretrain stage."""
    changing = recipe.pretrain.align_every is not None or recipe.model.reset_at_document
    return False if changing and recipe.parallel.compile == "auto" else recipe.parallel.compile


def stage_of(recipe: Recipe, name: StageName, dp_size: int = 1) -> Stage:
    """A stage by its name."""
    make: dict[StageName, Callable[[Recipe, int], Stage]] = {"align": align_stage, "pretrain": pretrain_stage}
    return make[name](recipe, dp_size)
