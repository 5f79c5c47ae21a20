"""Fit a law to runs: Huber loss of the logarithm, L-BFGS from a grid of starts, bands by the bootstrap.

As Hoffmann et al. 2022 (arXiv:2203.15556, appendix D.3) have it: the Huber loss with delta = 1e-3 of the difference of
logarithms, minimised by L-BFGS. Of the grid only the best starts are followed, as its points are cheap and their
minimisation is not, and delta falls to 1e-3 in steps: so narrow a Huber loss has its slope from the signs of the
differences, on which L-BFGS stalls far from a minimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize

from prealign.scaling.forms import Form, Law, Points

DELTA = 1e-3
"""Of the Huber loss, in log loss."""
DRAWS = 200
"""Of the bootstrap."""
_DELTAS = (0.1, 1e-2, DELTA)
_FOLLOWED = 10
_KEPT = 3
"""Of the minima at one delta, those that go on to the next."""
_REPEATS = (0.25, 2)
"""A run repeats its text where it reads this much of it again; so many runs must, for R* to be fitted."""
_APART = 1.05
"""Ratio from which on two sizes or budgets are two."""


@dataclass(frozen=True)
class Fit:
    """A law with its parameters."""

    law: Law
    vector: np.ndarray
    """The best parameters, ``[P]``."""
    draws: np.ndarray
    """Those of the bootstrap, ``[DRAWS, P]``."""
    residuals: np.ndarray
    """Measured less fitted log loss of the runs, widened by ``sqrt(n / (n - P))``: what a new run's differs by."""
    runs: int

    @property
    def values(self) -> dict[str, float]:
        """Parameters by name."""
        return self.law.values(self.vector)

    @property
    def bands(self) -> dict[str, tuple[float, float]]:
        """95 % of the bootstrap's parameters by name."""
        every = [self.law.values(draw) for draw in self.draws]
        return {name: band([draw[name] for draw in every]) for name in self.law.names}

    def predicted(self, points: Points) -> np.ndarray:
        """Losses of points in nats a token, ``[n]``."""
        return np.exp(self.law.log_loss(self.vector, points))

    def drawn(self, points: Points, rng: np.random.Generator, new_runs: bool) -> np.ndarray:
        """Losses of points by every draw, ``[DRAWS, n]``; ``new_runs``: with the noise of a run."""
        logs = self.law.log_loss(self.draws, points)
        if new_runs:
            logs = logs + rng.choice(self.residuals, logs.shape)
        return np.exp(logs)


def band(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The middle 95 % of values, which may be infinite."""
    ordered = np.sort(np.asarray(values, float))
    last = len(ordered) - 1
    return float(ordered[int(np.floor(0.025 * last))]), float(ordered[int(np.ceil(0.975 * last))])


def not_identifiable(form: Form, points: Points, methods: Sequence[str]) -> str | None:
    """Why runs cannot tell the parameters of a form, in words; None where they can."""
    count = len(Law(form, methods, 1.0, 1.0).names)
    for what, values in (("sizes", points.parameters), ("budgets", points.tokens)):
        found = _different(values)
        if found < 3:
            return f"not identifiable: {found} {what} of 3"
    if form.repeats:
        much, few = _REPEATS
        again = int(np.sum(points.repeats >= much))
        if again < few:
            return f"not identifiable: {again} runs of {few} read a {round(1 / much)}th of their text again or more"
    if form.transfer:
        if not points.source.any():
            return "not identifiable: no text of a source language"
        for number, method in enumerate(methods):
            own = points.at(points.method == number)
            if _different(own.source) < 2:
                return f"not identifiable: all runs of {method} read as much of the source language"
    if len(points) <= count:
        return f"not fitted: {len(points)} runs for {count} parameters"
    return None


def _different(values: np.ndarray) -> int:
    """How many values there are that differ by more than what is left over of whole steps."""
    kept: list[float] = []
    for value in sorted(values.tolist()):
        if not kept or value > _APART * kept[-1]:
            kept.append(value)
    return len(kept)


def fit(form: Form, points: Points, methods: Sequence[str], seed: int = 1, draws: int = DRAWS) -> Fit:
    """Fit a form to runs of ``methods``, to which `Points.method` are indices.

    The bootstrap is of residuals: every draw is fitted to the law's own losses with the residuals of other runs,
    widened for the parameters that were fitted. So it holds the ladder's design fixed, and has in it what runs differ
    by, seeds included, but not that the law itself may be wrong.
    """
    law = Law(form, methods, *(float(np.exp(np.log(x).mean())) for x in (points.parameters, points.tokens)))
    observed = np.log(points.loss)
    best = _minimum(law, points, observed, _starts(law, points, observed), _DELTAS)
    fitted = law.log_loss(best, points)
    free = max(1, len(points) - len(best))
    residuals = (observed - fitted) * np.sqrt(len(points) / free)
    rng = np.random.default_rng(seed)
    every = [
        _minimum(law, points, fitted + rng.choice(residuals, len(points)), best[None], _DELTAS[1:])
        for _ in range(draws)
    ]
    return Fit(law, best, np.array(every).reshape(draws, len(best)), residuals, len(points))


def r_squared(observed: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance of log loss that a prediction explains; below 0 where their mean would be better. Not a
    number for fewer than two different losses."""
    logs = np.log(observed)
    spread = float(((logs - logs.mean()) ** 2).sum())
    return 1 - float(((logs - np.log(predicted)) ** 2).sum()) / spread if spread > 0 else float("nan")


def _starts(law: Law, points: Points, observed: np.ndarray) -> np.ndarray:
    """The best of a grid of parameter vectors, ``[_FOLLOWED, P]``."""
    low, high = float(observed.min()), float(observed.max())
    floor = [low + np.log(share) for share in (0.2, 0.5, 0.8)]
    term = [high + np.log(share) for share in (0.05, 0.15, 0.4)]
    axes: list[list[float]] = [floor, term, [0.1, 0.3, 0.8], term, [0.1, 0.3, 0.8]]
    if law.form.repeats:
        axes.append([float(np.log(epochs)) for epochs in (2, 15)])
    grid = np.array(list(product(*axes)))
    if law.form.transfer:
        worth = np.log([0.001, 0.01, 0.1])
        taus = np.array(list(product(worth, repeat=len(law.methods) + law.form.others)))
        grid = np.hstack([np.repeat(grid, len(taus), axis=0), np.tile(taus, (len(grid), 1))])
    errors = _huber(law.log_loss(grid, points) - observed, _DELTAS[0]).sum(axis=1)
    return grid[np.argsort(errors)[:_FOLLOWED]]


def _minimum(law: Law, points: Points, observed: np.ndarray, starts: np.ndarray, deltas: Sequence[float]) -> np.ndarray:
    bounds = law.bounds(float(np.exp(observed.min())))
    vectors = [np.clip(start, bounds[:, 0], bounds[:, 1]) for start in starts]
    for delta in deltas:
        found = [
            minimize(
                _objective,
                vector,
                (law, points, observed, delta),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 500, "ftol": 1e-10, "gtol": 1e-7},
            )
            for vector in vectors
        ]
        vectors = [done.x for done in sorted(found, key=lambda done: float(done.fun))[:_KEPT]]
    return vectors[0]


def _objective(
    vector: np.ndarray, law: Law, points: Points, observed: np.ndarray, delta: float
) -> tuple[float, np.ndarray]:
    """Mean Huber loss in units of ``delta^2``, and its gradient."""
    logs, slopes = law.gradient(vector, points)
    scaled = (logs - observed) / delta
    value = _huber(scaled, 1.0).mean()
    return float(value), (np.clip(scaled, -1, 1)[:, None] * slopes).mean(axis=0) / delta


def _huber(difference: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
