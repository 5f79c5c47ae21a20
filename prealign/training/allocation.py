"""How many samples each source gives to each stretch of a stage's steps; exact, and arithmetic alone.

The stage is cut at every step where a source starts, stops or changes its weight. Over each stretch between two cuts
the shares stay as they are (a `prealign.data.mixture.Phase`):

1. A source with a budget that is active in some steps only, or that stands beside sources with weights, spreads its
   budget evenly over the steps in which it is active.
2. Sources with weights share what is left of a stretch, in proportion to the weights they have there.
3. Without weights, the sources that are always active share what is left, in proportion to what they still have to
   give, so that each has given exactly its budget at the end.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from prealign.data.mixture import MOST_SOURCES, apportion
from prealign.errors import UserError


@dataclass(frozen=True)
class Supply:
    """One source, as a stage draws on it.

    ``windows``: samples that it gives in all, or None where its weights say. ``weights``: ``(from_step, weight)``,
    ascending, the first from step 0. ``active``: first step and one past the last, or None: always.
    """

    key: str
    """Its key in the recipe, for errors."""
    windows: int | None
    weights: tuple[tuple[int, float], ...] = ()
    active: tuple[int, int | None] | None = None

    def active_in(self, steps: int) -> tuple[int, int]:
        """The steps in which it is active. Raises `UserError` where the stage is shorter."""
        if self.active is None:
            return 0, steps
        first, end = self.active
        if first >= steps or (end or 0) > steps:
            raise UserError(
                f"{self.key}.active: found [{first}, {'null' if end is None else end}]; the pretrain stage has {steps} "
                "steps; lower it, or raise the budgets"
            )
        return first, steps if end is None else end

    def weight_at(self, step: int) -> float:
        """Its weight from ``step`` on."""
        return [weight for from_step, weight in self.weights if from_step <= step][-1]


@dataclass(frozen=True)
class Stretch:
    """Steps ``first_step`` to ``end_step`` (not included) and the samples of each source in them."""

    first_step: int
    end_step: int
    counts: tuple[int, ...]


def allocate(supplies: list[Supply], steps: int, batch: int) -> list[Stretch]:
    """Split ``steps`` of ``batch`` samples. Where no source has weights, the budgets add up to ``steps * batch``.

    Raises `UserError` where budgets do not fit into the steps in which their sources are active, where steps have no
    active source, and for a range that the stage does not have.
    """
    ranges = [supply.active_in(steps) for supply in supplies]
    changes = {step for supply in supplies for step, _ in supply.weights}
    cuts = sorted({0, steps, *(step for pair in ranges for step in pair), *(step for step in changes if step < steps)})
    stretches = list(pairwise(cuts))
    weighted = any(supply.windows is None for supply in supplies)
    spread = [s.windows is not None and (weighted or s.active is not None) for s in supplies]
    left = [0 if s.windows is None or fixed else s.windows for s, fixed in zip(supplies, spread)]

    spread_counts = []
    for first, end in stretches:
        counts = [
            _spread(supply.windows or 0, (a, b), (first, end)) if fixed and a <= first and end <= b else 0
            for supply, (a, b), fixed in zip(supplies, ranges, spread)
        ]
        if sum(counts) > (end - first) * batch:
            _refuse_overflow(supplies, counts, first, end, batch)
        spread_counts.append(counts)

    result = []
    for (first, end), counts in zip(stretches, spread_counts):
        rest = (end - first) * batch - sum(counts)
        shares = left
        if weighted:
            shares = _weights(supplies, [a <= first and end <= b for a, b in ranges], first)
        if (rest > 0 and sum(shares) == 0) or (not weighted and rest > sum(left)):
            raise UserError(
                f"languages: steps {first} to {end} of the pretrain stage have room for {rest} samples more than the "
                f"sources with a range give; expected a source that is active there and whose weight is not 0, or that "
                f"has no range"
            )
        filled = apportion(rest, shares)
        left = [there - taken for there, taken in zip(left, filled)] if not weighted else left
        counts = [fixed + share for fixed, share in zip(counts, filled)]
        if sum(count > 0 for count in counts) > MOST_SOURCES:
            raise UserError(
                f"languages: found {sum(count > 0 for count in counts)} sources active in steps {first} to {end}; "
                f"expected at most {MOST_SOURCES}; join sources that are active in the same steps"
            )
        result.append(Stretch(first, end, tuple(counts)))
    return result


def _spread(windows: int, active: tuple[int, int], stretch: tuple[int, int]) -> int:
    """The part of ``windows`` that falls into a stretch of the active steps: differences of rounded-down sums."""
    first, end = active
    return windows * (stretch[1] - first) // (end - first) - windows * (stretch[0] - first) // (end - first)


def _weights(supplies: list[Supply], active: list[bool], step: int) -> list[int]:
    """Integers in proportion to the weights at ``step``; 0 for sources that have a budget or are not active."""
    return integer_weights(
        [s.weight_at(step) if on and s.windows is None else 0.0 for s, on in zip(supplies, active)],
    )


def integer_weights(weights: list[float]) -> list[int]:
    """Integers in exactly the same proportions, however far apart the weights are."""
    fractions = [Fraction(weight) for weight in weights]
    scale = max(fraction.denominator for fraction in fractions)  # powers of two: the largest is divided by all
    return [int(fraction * scale) for fraction in fractions]


def _refuse_overflow(supplies: list[Supply], counts: list[int], first: int, end: int, batch: int) -> None:
    asked = ", ".join(f"{supply.key} {count}" for supply, count in zip(supplies, counts) if count)
    raise UserError(
        f"languages: steps {first} to {end} of the pretrain stage hold {(end - first) * batch} samples; the budgets of "
        f"the sources active there ask for {sum(counts)} ({asked}); lower them or widen 'active'"
    )
