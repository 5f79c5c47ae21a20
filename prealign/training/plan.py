"""How many steps and samples each stage has: every language's tokens, word batches included, add up to its budget."""

from dataclasses import dataclass

from prealign.config import Recipe
from prealign.corpus.mixture import Phase, apportion
from prealign.errors import UserError
from prealign.hashing import Draw, mix


@dataclass(frozen=True)
class Account:
    """Tokens that a run has consumed, per language.

    ``text``: positions of text. ``words``: tokens of word batches. ``steps``: optimizer steps.
    """

    text: dict[str, int]
    words: dict[str, int]
    steps: int = 0

    @property
    def tokens(self) -> int:
        """All positions that entered the model."""
        return sum(self.text.values()) + sum(self.words.values())

    def plus(self, other: "Account") -> "Account":
        """Sum of two accounts."""
        text = {name: self.text[name] + other.text[name] for name in self.text}
        words = {name: self.words[name] + other.words[name] for name in self.words}
        return Account(text, words, self.steps + other.steps)

    @classmethod
    def empty(cls, recipe: Recipe) -> "Account":
        """Nothing consumed yet."""
        return cls(dict.fromkeys(recipe.languages, 0), dict.fromkeys(recipe.languages, 0))


@dataclass(frozen=True)
class StagePlan:
    """One stage: its share of the sample stream and its optimizer steps."""

    stage: str
    phase: Phase
    steps: int

    def text_tokens(self, recipe: Recipe) -> dict[str, int]:
        """Text tokens per language of the whole stage."""
        return {name: count * recipe.model.context for name, count in zip(recipe.languages, self.phase.counts)}


def align_plan(recipe: Recipe) -> StagePlan:
    """The align stage: `align.fraction` of the steps that the budget gives without it, text in budget proportion."""
    windows = [language.tokens // recipe.model.context for language in recipe.languages.values()]
    run_steps = _whole_steps(recipe, windows)
    steps = max(1, round(recipe.align.fraction * run_steps))
    counts = apportion(steps * recipe.batch.global_batch_size, windows)
    return StagePlan(
        "align", Phase(tuple(counts), (0,) * len(counts), int(mix(recipe.seed, Draw.SAMPLE_ORDER, 0))), steps
    )


def pretrain_plan(recipe: Recipe, consumed: Account) -> StagePlan:
    """The pretrain stage: what ``consumed`` (the align stage) has left of each language's budget, in whole windows.

    What does not fill a last step is taken off the language with the most text, so the others are exact to one window.
    """
    context = recipe.model.context
    windows = []
    for name, language in recipe.languages.items():
        spent = consumed.text[name] + consumed.words[name]
        if spent > language.tokens:
            raise UserError(
                f"languages.{name}.tokens: found {language.tokens}; the align stage alone consumes {spent} "
                f"({consumed.words[name]} of them in word batches); lower align.fraction or align.words_per_step, or "
                f"raise it"
            )
        windows.append((language.tokens - spent) // context)
    steps = _whole_steps(recipe, windows)
    largest = max(range(len(windows)), key=windows.__getitem__)
    windows[largest] -= sum(windows) - steps * recipe.batch.global_batch_size
    before = tuple(consumed.text[name] // context for name in recipe.languages)
    return StagePlan("pretrain", Phase(tuple(windows), before, int(mix(recipe.seed, Draw.SAMPLE_ORDER, 1))), steps)


def _whole_steps(recipe: Recipe, windows: list[int]) -> int:
    steps = sum(windows) // recipe.batch.global_batch_size
    if steps == 0:
        per_step = recipe.batch.global_batch_size * recipe.model.context
        raise UserError(
            f"languages.*.tokens: found {sum(windows) * recipe.model.context} tokens to train on; expected at least "
            f"one step: "
            f"batch.global_batch_size x model.context = {per_step}"
        )
    return steps
