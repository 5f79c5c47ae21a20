"""Laws: their derivatives, their parameters out of losses that they made, and how often bands hold them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from prealign.scaling.fitting import fit, not_identifiable, r_squared
from prealign.scaling.forms import BOTH, CHINCHILLA, FORMS, REPEATED, TRANSFER, Form, Law, Points

METHODS = ["Joint", "PreAlign"]
SIZES = (5e5, 1e6, 2e6, 4e6)
TRUE = {
    "Chinchilla": (np.log(2.0), np.log(0.8), 0.35, np.log(2.2), 0.4),
    "repeated data": (np.log(2.0), np.log(0.8), 0.35, np.log(2.2), 0.4, np.log(3.0)),
    "transfer": (np.log(2.0), np.log(0.8), 0.35, np.log(2.2), 0.4, np.log(0.01), np.log(0.05)),
    "transfer, repeated data": (
        *(np.log(2.0), np.log(0.8), 0.35, np.log(2.2), 0.4),
        *(np.log(3.0), np.log(0.01), np.log(0.05)),
    ),
}


def points(methods: int = 2) -> Points:
    """Four sizes, six budgets of the target, of which the highest repeat, and three of the source, without losses."""
    rows = [
        (size, tokens, source, method)
        for size, tokens, source, method in product(
            SIZES, (8e3, 16e3, 32e3, 1.3e5, 5e5, 2e6), (3e5, 6e5, 1.2e6), range(methods)
        )
        if tokens == 16e3 or source == 6e5
    ]
    table = np.array(rows)
    tokens = table[:, 1]
    return Points(
        table[:, 0],
        tokens,
        np.minimum(tokens, 1e5),
        table[:, 2],
        np.zeros(len(table)),
        table[:, 3].astype(np.int64),
        np.full(len(table), np.nan),
    )


def made(form: Form, noise: float = 0.0, seed: int = 0, methods: int = 2) -> tuple[Law, np.ndarray, Points]:
    """A law, its parameters, and runs with the losses that it gives."""
    law = Law(form, METHODS[:methods], 1.4e6, 7e4)
    vector = np.array(TRUE[form.name][: len(law.names)])
    found = points(methods)
    shift = noise * np.random.default_rng(seed).standard_normal(len(found))
    return law, vector, replace(found, loss=np.exp(law.log_loss(vector, found) + shift))


@pytest.mark.parametrize("form", [*FORMS, replace(BOTH, others=True)], ids=lambda form: f"{form.name} {form.others}")
def test_derivatives_are_those_of_differences(form: Form) -> None:
    law = Law(form, METHODS, 1.4e6, 7e4)
    vector = np.array([*TRUE[form.name], np.log(0.02)][: len(law.names)])
    runs = replace(points(), others=np.linspace(1e4, 1e5, len(points())))
    logs, slopes = law.gradient(vector, runs)
    assert logs == pytest.approx(law.log_loss(vector, runs))
    for number in range(len(vector)):
        step = np.zeros(len(vector))
        step[number] = 1e-6
        difference = (law.log_loss(vector + step, runs) - law.log_loss(vector - step, runs)) / 2e-6
        assert slopes[:, number] == pytest.approx(difference, abs=1e-8)


def test_forms_are_what_the_papers_have() -> None:
    """By the equations of Hoffmann et al. and Muennighoff et al. themselves."""
    law, vector, runs = made(BOTH)
    of = law.values(vector)
    repeats = runs.tokens / runs.unique - 1
    own = runs.unique + runs.unique * of["R*"] * (1 - np.exp(-repeats / of["R*"]))
    tau = np.where(runs.method == 0, of["tau Joint"], of["tau PreAlign"])
    expected = of["E"] + of["A"] / runs.parameters ** of["alpha"] + of["B"] / (own + tau * runs.source) ** of["beta"]
    assert runs.loss == pytest.approx(expected)
    many = law.log_loss(np.stack([vector, vector + 0.1]), runs)
    assert many[1] == pytest.approx(law.log_loss(vector + 0.1, runs))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_parameters_are_found_again(form: Form) -> None:
    law, vector, runs = made(form)
    found = fit(form, runs, METHODS, draws=1)
    assert found.values == pytest.approx(law.values(vector), rel=0.02)
    assert r_squared(runs.loss, found.predicted(runs)) > 0.99999
    noisy = fit(form, made(form, noise=0.004)[2], METHODS, draws=20)
    for name, (low, high) in noisy.bands.items():
        assert low <= noisy.values[name] <= high, name
    assert noisy.values["beta"] == pytest.approx(0.4, abs=0.06)
    assert r_squared(runs.loss, noisy.predicted(runs)) > 0.998


def test_one_outlier_moves_little() -> None:
    runs = made(CHINCHILLA, noise=0.001)[2]
    runs.loss[3] *= 1.3
    assert fit(CHINCHILLA, runs, METHODS, draws=1).values["beta"] == pytest.approx(0.4, abs=0.02)


@pytest.mark.long
def test_bands_hold_the_truth_about_as_often_as_they_say() -> None:
    """95 % of 40 fits, of parameters and of a larger size's predicted loss."""
    law, vector, _ = made(TRANSFER)
    truth = law.values(vector)
    larger = replace(points(), parameters=np.full(len(points()), 16e6))
    expected = np.exp(law.log_loss(vector, larger))
    held: dict[str, list[bool]] = {name: [] for name in [*truth, "loss", "run"]}
    for seed in range(40):
        found = fit(TRANSFER, made(TRANSFER, noise=0.004, seed=seed)[2], METHODS, draws=60)
        for name, (low, high) in found.bands.items():
            held[name].append(low <= truth[name] <= high)
        rng = np.random.default_rng(seed)
        new = expected * np.exp(0.004 * rng.standard_normal(len(larger)))
        for name, losses in (("loss", expected), ("run", new)):
            ends = np.quantile(found.drawn(larger, rng, new_runs=name == "run"), [0.025, 0.975], axis=0)
            held[name] += ((ends[0] <= losses) & (losses <= ends[1])).tolist()
    shares = {name: float(np.mean(found)) for name, found in held.items()}
    assert all(share >= 0.8 for share in shares.values()), shares
    assert 0.88 <= np.mean(list(shares.values())) <= 0.995, shares


def test_what_runs_cannot_tell_is_said() -> None:
    runs = made(BOTH)[2]
    assert not_identifiable(BOTH, runs, METHODS) is None
    new = replace(runs, unique=runs.tokens)
    assert "0 runs of 2 read a 4th of their text again" in (not_identifiable(REPEATED, new, METHODS) or "")
    fixed = runs.at((runs.source == 6e5) | (runs.method == 0))
    reason = not_identifiable(TRANSFER, fixed, METHODS)
    assert reason == "not identifiable: all runs of PreAlign read as much of the source language"
    nearly = replace(fixed, source=fixed.source * np.linspace(1, 1.01, len(fixed)))  # whole steps differ
    assert not_identifiable(TRANSFER, nearly, METHODS) == reason
    two = runs.at(runs.parameters < 1.5e6)
    assert not_identifiable(CHINCHILLA, two, METHODS) == "not identifiable: 2 sizes of 3"
    few = runs.at(np.array([0, 20, 40, 50, 60]))
    assert not_identifiable(CHINCHILLA, few, METHODS) == "not fitted: 5 runs for 5 parameters"


def test_inversion_is_exact() -> None:
    for form in FORMS:
        law, vector, runs = made(form)
        new = replace(runs, unique=runs.tokens)  # what is asked for is new text
        found = law.tokens_for(vector, new, law.log_loss(vector, new))
        assert found == pytest.approx(new.tokens, rel=1e-9)
    law, vector, runs = made(CHINCHILLA)
    never = law.tokens_for(vector, runs, np.full(len(runs), np.log(2.0)))
    assert np.isinf(never).all()
    law, vector, runs = made(TRANSFER)
    without = law.log_loss(vector, replace(runs, tokens=np.full(len(runs), 1e-9)))
    assert law.tokens_for(vector, runs, without + 0.01) == pytest.approx(np.zeros(len(runs)))


def test_r_squared() -> None:
    observed = np.exp([1.0, 2.0, 3.0])
    assert r_squared(observed, observed) == 1
    assert r_squared(observed, np.exp([2.0, 2.0, 2.0])) == pytest.approx(0)
    assert r_squared(observed, np.exp([1.0, 2.0, 5.0])) == pytest.approx(-1)
    assert np.isnan(r_squared(observed[:1], observed[:1]))
