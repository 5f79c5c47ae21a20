"""How many steps and samples each stage has: every language's text adds up to its budget, whatever the stages. Word
batches are counted beside it."""

from dataclasses import dataclass, field

import numpy as np

from prealign.config import Recipe
from prealign.config.recipe import StageName
from prealign.config.stage import Stage
from prealign.config.texts import ShareConfig
from prealign.data.mixture import Mixture, Phase, apportion
from prealign.errors import UserError
from prealign.random_streams import Draw, mix
from prealign.training.allocation import Stretch, Supply, allocate, integer_weights


@dataclass(frozen=True)
class Account:
    """Tokens that a run has consumed, per language.

    ``text``: positions of text. ``words``: tokens of word batches. ``steps``: optimizer steps. ``targets``: positions
    of text that had a target; where a word is replaced by several tokens, all but the last of them have none. Empty
    where they were not counted.
    """

    text: dict[str, int]
    words: dict[str, int]
    steps: int = 0
    targets: dict[str, int] = field(default_factory=dict)

    @property
    def text_tokens(self) -> int:
        """Positions of text, which runs are compared at."""
        return sum(self.text.values())

    @property
    def tokens(self) -> int:
        """All positions that entered the model."""
        return sum(self.text.values()) + sum(self.words.values())

    def plus(self, other: "Account") -> "Account":
        """Sum of two accounts; without targets where either has none."""
        text = {name: self.text[name] + other.text[name] for name in self.text}
        words = {name: self.words[name] + other.words[name] for name in self.words}
        counted = self.targets and other.targets
        targets = {name: self.targets[name] + other.targets[name] for name in self.targets} if counted else {}
        return Account(text, words, self.steps + other.steps, targets)

    @classmethod
    def empty(cls, recipe: Recipe) -> "Account":
        """Nothing consumed yet."""
        nothing = dict.fromkeys(recipe.languages, 0)
        return cls(nothing, nothing, 0, nothing)


@dataclass(frozen=True)
class StagePlan:
    """One stage: its share of the sample stream and its optimizer steps."""

    mixture: Mixture
    steps: int

    @property
    def global_batch_size(self) -> int:
        """Sequences of one step."""
        return self.mixture.samples // self.steps

    def source_tokens(self, recipe: Recipe) -> dict[str, int]:
        """Text tokens of the whole stage per source (`Recipe.sources`)."""
        return {name: count * recipe.model.context for name, count in zip(recipe.sources, self.mixture.counts)}

    def text_tokens(self, recipe: Recipe, steps: int | None = None) -> dict[str, int]:
        """Text tokens per language of the stage's first ``steps`` steps, or of all."""
        counts = self.mixture.counts_before((self.steps if steps is None else steps) * self.global_batch_size)
        totals = [0] * len(recipe.languages)
        for language, count in zip(recipe.language_of_source, counts):
            totals[language] += count * recipe.model.context
        return dict(zip(recipe.languages, totals))


def align_plan(recipe: Recipe) -> StagePlan:
    """The align stage: `align.fraction` of the run's text, in whole steps.

    Its text comes from the languages that have no range of steps, in proportion to their budgets or, where weights
    change, as the first steps of the pretrain stage have it.
    """
    batch, context = recipe.batch.global_batch_size, recipe.model.context
    windows = [None if tokens is None else tokens // context for tokens in budgets(recipe)]
    if None in windows:
        run_steps = _whole_steps(recipe, (recipe.mixture.tokens or 0) // context)
        shares = list(allocate(_supplies(recipe, windows), run_steps, batch)[0].counts)
    else:
        run_steps = _whole_steps(recipe, sum(count or 0 for count in windows))
        shares = [count or 0 for count in windows]
    align_batch = recipe.batch_of("align").global_batch_size
    steps = max(1, round(recipe.align.fraction * run_steps * batch / align_batch))
    for number, (name, source) in enumerate(recipe.sources.items()):
        if name not in recipe.languages or source.active is not None:
            shares[number] = 0
    if sum(shares) == 0:
        raise UserError(
            "languages: found no text for the align stage: every language has a range ('active') or the weight 0; "
            "expected one without; remove 'active' or use stages=[pretrain]"
        )
    counts = apportion(steps * align_batch, shares)
    key = int(mix(recipe.seed, Draw.SAMPLE_ORDER, 0))
    return StagePlan(Mixture((Phase(tuple(counts), (0,) * len(counts), key),)), steps)


def pretrain_plan(recipe: Recipe, consumed: Account) -> StagePlan:
    """The pretrain stage: the text that ``consumed`` (the align stage) has left of the budgets, in whole windows.

    What does not fill a last step is taken off the language with the most text, so the others are exact to one window.
    Where weights change, it is the run's total that is exact to one step.
    """
    batch, context = recipe.batch.global_batch_size, recipe.model.context
    windows: list[int | None] = []
    for name, tokens in zip(recipe.sources, budgets(recipe)):
        spent = consumed.text[name] if name in recipe.languages else 0
        if tokens is not None and spent > tokens:
            raise UserError(
                f"languages.{name}.tokens: found {tokens}; the align stage alone reads {spent}; lower align.fraction "
                f"or raise the budget"
            )
        windows.append(None if tokens is None else (tokens - spent) // context)
    if None in windows:
        steps = _whole_steps(recipe, max(0, (recipe.mixture.tokens or 0) - consumed.text_tokens) // context)
    else:
        known = [count or 0 for count in windows]
        steps = _whole_steps(recipe, sum(known))
        steady = [source.active is None for source in recipe.sources.values()]
        largest = max(range(len(known)), key=lambda i: (steady[i], known[i]))
        windows[largest] = known[largest] - (sum(known) - steps * batch)
        if known[largest] < sum(known) - steps * batch:
            raise UserError(
                f"languages.*.tokens: found less than one step of text without a range ({known[largest]} samples); "
                f"expected at least batch.global_batch_size={batch}"
            )
    for phase in recipe.mixture.phases:
        if phase.from_step >= steps:
            raise UserError(
                f"mixture.phases: found from_step {phase.from_step}; the pretrain stage has {steps} steps; lower it or "
                f"raise mixture.tokens"
            )
    before = tuple(consumed.text[name] // context if name in recipe.languages else 0 for name in recipe.sources)
    stretches = allocate(_supplies(recipe, windows), steps, batch)
    return StagePlan(_mixture(recipe, stretches, before), steps)


def plan_of(recipe: Recipe, name: StageName, consumed: Account) -> StagePlan:
    """A stage by its name; ``consumed`` as in `pretrain_plan`."""
    return align_plan(recipe) if name == "align" else pretrain_plan(recipe, consumed)


def stretches_of(plan: StagePlan) -> list[Stretch]:
    """The plan's phases by steps."""
    bounds = (plan.mixture.first_samples // plan.global_batch_size).tolist()
    return [Stretch(first, end, phase.counts) for first, end, phase in zip(bounds, bounds[1:], plan.mixture.phases)]


def budgets(recipe: Recipe) -> list[int | None]:
    """Tokens of each source over the whole run; None for weights that change or hold in a range of steps only."""
    shares = list(recipe.sources.values())
    weighted = [share for share in shares if share.weight is not None]
    tokens = [share.tokens for share in shares]
    if not weighted or recipe.mixture.phases or any(share.active for share in weighted):
        return tokens
    rest = (recipe.mixture.tokens or 0) - sum(count or 0 for count in tokens)
    if not any(share.weight for share in weighted):
        names = [recipe.source_key(name) for name, share in recipe.sources.items() if share.weight is not None]
        raise UserError(f"{names[0]}.weight: found 0 there and in all of {names}; expected a weight above 0")
    if rest < 0:
        given = sum(count or 0 for count in tokens)
        raise UserError(
            f"mixture.tokens: found {recipe.mixture.tokens:,}, and budgets in tokens of {given:,}; "
            f"expected more than those, for the languages with weights"
        )
    parts = iter(apportion(rest, integer_weights([share.weight or 0.0 for share in weighted])))
    return [next(parts) if count is None else count for count in tokens]


def _supplies(recipe: Recipe, windows: list[int | None]) -> list[Supply]:
    def weights(name: str, share: ShareConfig) -> tuple[tuple[int, float], ...]:
        changes = [(phase.from_step, phase.weights[name]) for phase in recipe.mixture.phases if name in phase.weights]
        return ((0, share.weight or 0.0), *changes)

    supplies = []
    for (name, share), count in zip(recipe.sources.items(), windows):
        changes = weights(name, share) if count is None else ()
        supplies.append(Supply(recipe.source_key(name), count, changes, share.active))
    return supplies


def _mixture(recipe: Recipe, stretches: list[Stretch], before: tuple[int, ...]) -> Mixture:
    """Phases of the pretrain stage. What is active in a range of steps starts anywhere in it, not at its end."""
    key = int(mix(recipe.seed, Draw.SAMPLE_ORDER, 1))
    ranged = [share.active is not None for share in recipe.sources.values()]
    phases: list[Phase] = []
    for number, stretch in enumerate(stretches):
        phase_key = int(mix(key, number)) if number else key
        offsets: tuple[int, ...] = ()
        if any(ranged):
            draws = (mix(phase_key, np.arange(len(ranged))) % np.uint64(sum(stretch.counts))).tolist()
            offsets = tuple(draw if moved else 0 for draw, moved in zip(draws, ranged))
        phases.append(Phase(stretch.counts, phases[-1].consumed_after if phases else before, phase_key, offsets))
    return Mixture(tuple(phases))


def _whole_steps(recipe: Recipe, windows: int) -> int:
    steps = windows // recipe.batch.global_batch_size
    if steps == 0:
        per_step = recipe.batch.global_batch_size * recipe.model.context
        key = "languages.*.tokens" if recipe.mixture.tokens is None else "mixture.tokens"
        raise UserError(
            f"{key}: found {windows * recipe.model.context} tokens to train on; expected at least "
            f"one step of each stage: batch.global_batch_size x model.context = {per_step}; change that, or "
            f"align.fraction, which shares the text between the stages"
        )
    return steps


def micro_batch_note(stage: Stage, recipe: Recipe, dp_size: int) -> str | None:
    """What to say where a rank's share of the step has no divisor near the recipe's `batch.micro_batch_size`."""
    taken, asked = stage.recipe.batch.micro_batch_size, recipe.batch.micro_batch_size
    share = stage.recipe.batch.global_batch_size // dp_size
    if 2 * taken >= min(asked, share):
        return None
    return (
        f"{stage.name}: warning: {taken} sequences a forward pass, as no larger number up to batch.micro_batch_size="
        f"{asked} divides a rank's {share}; another global_batch_size would be faster"
    )
