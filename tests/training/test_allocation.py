"""Samples per source and stretch of steps: against a literal reading of the rules, and the errors."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import UserError
from prealign.training.allocation import Stretch, Supply, allocate, integer_weights

STEPS, BATCH = 24, 16


def literal(supplies: list[Supply]) -> list[list[Fraction]]:
    """The exact, unrounded share of every source in every step: ``[steps][sources]``."""
    weighted = any(supply.windows is None for supply in supplies)
    table = []
    for step in range(STEPS):
        row = [Fraction(0)] * len(supplies)
        for number, supply in enumerate(supplies):
            first, end = supply.active or (0, STEPS)
            end = STEPS if end is None else end
            if supply.windows is not None and (weighted or supply.active) and first <= step < end:
                row[number] = Fraction(supply.windows, end - first)
        table.append(row)
    rest = [BATCH - sum(row) for row in table]
    for step, row in enumerate(table):
        for number, supply in enumerate(supplies):
            if supply.windows is None:
                weights = []
                for other in supplies:
                    first, end = other.active or (0, STEPS)
                    on = other.windows is None and first <= step < (STEPS if end is None else end)
                    current = [weight for from_step, weight in other.weights if from_step <= step]
                    weights.append(Fraction(current[-1]) if on else Fraction(0))
                row[number] = rest[step] * weights[number] / sum(weights) if sum(weights) else Fraction(0)
            elif not weighted and supply.active is None:
                row[number] = rest[step] * supply.windows / sum(rest)
    return table


ranges = st.one_of(
    st.tuples(st.integers(0, STEPS - 1), st.integers(1, STEPS)).filter(lambda pair: pair[0] < pair[1]),
    st.tuples(st.integers(0, STEPS - 1), st.none()),
)


@given(st.lists(st.tuples(ranges, st.integers(0, 12)), max_size=4), st.lists(st.integers(0, 1000), max_size=3))
@settings(max_examples=300, deadline=None)
def test_budgets(ranged: list, open_shares: list[int]) -> None:
    """Every budget is given exactly, in its range, as evenly as whole samples allow."""
    supplies = [Supply(f"r{i}", windows, (), active) for i, (active, windows) in enumerate(ranged)]
    rest = STEPS * BATCH - sum(supply.windows or 0 for supply in supplies)
    shares = [*open_shares, 1000]
    parts = [rest * share // sum(shares) for share in shares]
    parts[-1] += rest - sum(parts)
    supplies += [Supply(f"o{i}", part) for i, part in enumerate(parts)]
    stretches = allocated(supplies)
    if stretches is None:
        assert any(sum(row[: len(ranged)]) > BATCH - len(ranged) for row in literal(supplies))
        return
    check(supplies, stretches)
    assert [sum(column) for column in zip(*(s.counts for s in stretches))] == [s.windows for s in supplies]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), ranges),
            st.lists(st.tuples(st.integers(1, STEPS + 5), st.sampled_from([0.0, 1e-9, 0.5, 3.0])), max_size=3),
        ),
        max_size=3,
    ),
    st.lists(st.tuples(st.one_of(st.none(), ranges), st.integers(0, 12)), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_weights(weighted: list, budgeted: list) -> None:
    supplies = [Supply("always", None, ((0, 1.0),))]
    for number, (active, changes) in enumerate(weighted):
        by_step = dict(changes)
        supplies.append(Supply(f"w{number}", None, ((0, 0.25), *sorted(by_step.items())), active))
    supplies += [Supply(f"b{i}", windows, (), active) for i, (active, windows) in enumerate(budgeted)]
    stretches = allocated(supplies)
    if stretches is None:
        budgets = [s.windows for s in supplies if s.windows is not None]
        assert sum(budgets) > BATCH - len(supplies)
        return
    check(supplies, stretches)
    for supply, given_ in zip(supplies, zip(*(stretch.counts for stretch in stretches))):
        assert supply.windows is None or sum(given_) == supply.windows


def allocated(supplies: list[Supply]) -> list[Stretch] | None:
    """None where ranges ask for more than their steps hold."""
    try:
        return allocate(supplies, STEPS, BATCH)
    except UserError as error:
        if "ask for" not in str(error):
            raise
        return None


def check(supplies: list[Supply], stretches: list[Stretch]) -> None:
    """Stretches cover the stage, are full, and each count is within rounding of the literal share."""
    assert [s.first_step for s in stretches] == [0, *(s.end_step for s in stretches[:-1])]
    assert stretches[-1].end_step == STEPS
    table = literal(supplies)
    drift = [Fraction(0)] * len(supplies)
    for stretch in stretches:
        assert sum(stretch.counts) == (stretch.end_step - stretch.first_step) * BATCH
        for number, count in enumerate(stretch.counts):
            assert count >= 0
            share = sum(table[step][number] for step in range(stretch.first_step, stretch.end_step))
            if share == 0:
                assert count <= 0
            drift[number] += count - share
            # each stretch rounds its own shares: by one, and by what rounding leaves of the others
            assert abs(drift[number]) <= len(supplies) * len(stretches)


def test_one_stretch_is_the_budgets() -> None:
    assert [s.counts for s in allocate([Supply("a", 300), Supply("b", 20)], 20, 16)] == [(300, 20)]


def test_extreme_weights() -> None:
    assert integer_weights([1e-9, 1.0, 0.0])[0] > 0
    supplies = [Supply("a", None, ((0, 1.0),)), Supply("b", None, ((0, 1e-9),)), Supply("c", None, ((0, 1e-300),))]
    (stretch,) = allocate(supplies, 10_000_000, 1024)
    assert stretch.counts == (10_240_000_000 - 10, 10, 0)


@pytest.mark.parametrize(
    ("supplies", "message"),
    [
        (
            [Supply("a", 384), Supply("b", 0, (), (24, None))],
            r"b\.active: found \[24, null\]; the pretrain stage has 24",
        ),
        ([Supply("a", 384), Supply("b", 0, (), (3, 25))], r"b\.active: found \[3, 25\]"),
        ([Supply("a", 367), Supply("b", 17, (), (3, 4))], r"steps 3 to 4 .* hold 16 samples; .* ask for 17 \(b 17\)"),
        ([Supply("a", 192, (), (0, 12)), Supply("b", 100, (), (12, 24))], "steps 12 to 24 .* room for 92 samples"),
        ([Supply("a", None, ((0, 1.0), (20, 0.0)))], "steps 20 to 24 .* room for 64 samples"),
        (
            [Supply("s0", 5), *(Supply(f"s{i}", 6) for i in range(1, 64)), Supply("t", 1)],
            "found 65 sources active in steps 0 to 24",
        ),
    ],
)
def test_mistakes(supplies: list[Supply], message: str) -> None:
    with pytest.raises(UserError, match=message):
        allocate(supplies, STEPS, BATCH)
