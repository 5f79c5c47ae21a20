"""Laws of the held-out loss, in nats a token, with their derivatives.

    L = E + A / N^alpha + B / D_eff^beta
    D_eff = D' + tau S + omega O
    D' = U + U R* (1 - exp(-R / R*)),  R = D / U - 1

``N``: parameters. ``D``: tokens of the language's text that a run reads, of which ``U`` are different; ``D' = D`` where
a form leaves repetition out. ``S``: tokens of the source language, each worth ``tau`` of the language's own, by method.
``O``: those of all other languages, worth ``omega``.

The first line alone is that of Hoffmann et al. 2022 (arXiv:2203.15556); ``D'`` is from Muennighoff et al. 2023
(arXiv:2305.16264), without its counterpart for parameters; tokens of one distribution as worth so many of another are
in the spirit of Hernandez et al. 2021 (arXiv:2102.01293) and ATLAS (arXiv:2510.22037).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Points:
    """What runs have read, and with what loss they ended; float64 arrays ``[n]``."""

    parameters: np.ndarray
    tokens: np.ndarray
    """``D``, above 0."""
    unique: np.ndarray
    """``U``, at most ``D``."""
    source: np.ndarray
    """``S``; 0 where the language is the source itself."""
    others: np.ndarray
    method: np.ndarray
    """Index into the names of the methods, int64."""
    loss: np.ndarray
    """Nats a token; not finite where it is not known."""

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def repeats(self) -> np.ndarray:
        """``R``: how often the text was read beyond the first time."""
        return self.tokens / self.unique - 1

    def at(self, chosen: np.ndarray) -> "Points":
        """Those that an index or a mask chooses."""
        return Points(
            self.parameters[chosen],
            self.tokens[chosen],
            self.unique[chosen],
            self.source[chosen],
            self.others[chosen],
            self.method[chosen],
            self.loss[chosen],
        )


@dataclass(frozen=True)
class Form:
    """Which terms a law has."""

    name: str
    repeats: bool = False
    transfer: bool = False
    others: bool = False
    """Other languages count as well; only with ``transfer``."""


CHINCHILLA = Form("Chinchilla")
REPEATED = Form("repeated data", repeats=True)
TRANSFER = Form("transfer", transfer=True)
BOTH = Form("transfer, repeated data", repeats=True, transfer=True)
FORMS = (CHINCHILLA, REPEATED, TRANSFER, BOTH)


class Law:
    """A form over methods, with the scales of its parameters.

    A vector of parameters is ``(log E, log a, alpha, log b, beta)``, then ``log R*`` where the form has repetition,
    then ``log tau`` of each method where it has transfer, then ``log omega`` where others count. ``a`` and ``b`` are
    the terms' values at the reference ``N0``, ``D0`` (means of the logarithms), which makes parameters of one size.
    """

    def __init__(self, form: Form, methods: Sequence[str], parameters0: float, tokens0: float) -> None:
        self.form = form
        self.methods = list(methods)
        self._parameters0, self._tokens0 = parameters0, tokens0
        names = ["E", "A", "alpha", "B", "beta"]
        if form.repeats:
            self._repeats = len(names)
            names.append("R*")
        if form.transfer:
            self._tau = len(names)
            names += [f"tau {method}" for method in self.methods]
            if form.others:
                self._omega = len(names)
                names.append("omega")
        self.names = names
        """As `values` returns them."""

    def bounds(self, lowest: float) -> np.ndarray:
        """Lowest and highest of each parameter of the vector, ``[P, 2]``; ``lowest``: the lowest loss measured."""
        known = {"E": (np.log(lowest) - 6, np.log(lowest)), "A": (-12.0, 6.0), "B": (-12.0, 6.0), "R*": (-2.0, 7.0)}
        exponent, worth = (0.01, 3.0), (-16.0, 2.0)
        rest = {"alpha": exponent, "beta": exponent}
        return np.array([(known | rest).get(name, worth) for name in self.names])

    def values(self, vector: np.ndarray) -> dict[str, float]:
        """The parameters under the names of the equation, in tokens and parameters of the model."""
        e, a, alpha, b, beta = vector[:5]
        found = {
            "E": np.exp(e),
            "A": np.exp(a + alpha * np.log(self._parameters0)),
            "alpha": alpha,
            "B": np.exp(b + beta * np.log(self._tokens0)),
            "beta": beta,
        }
        found |= {name: np.exp(value) for name, value in zip(self.names[5:], vector[5:])}
        return {name: float(value) for name, value in found.items()}

    def log_loss(self, vector: np.ndarray, points: Points) -> np.ndarray:
        """``log L`` of points, ``[n]``, or ``[K, n]`` of ``K`` vectors."""
        floor, size, data = self._terms(vector, points)
        return np.log(floor + size + data)

    def gradient(self, vector: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """``log L`` of points ``[n]`` and its derivatives ``[n, P]`` by one vector's parameters."""
        floor, size, data = self._terms(vector, points)
        total = floor + size + data
        effective = self.effective(vector, points)
        beta = vector[4]
        slopes = np.zeros((len(points), len(vector)))
        slopes[:, 0], slopes[:, 1], slopes[:, 3] = floor, size, data
        slopes[:, 2] = -size * np.log(points.parameters / self._parameters0)
        slopes[:, 4] = -data * np.log(effective / self._tokens0)
        by_tokens = -data * beta / effective
        if self.form.repeats:
            limit = np.exp(vector[self._repeats])
            share = points.repeats / limit
            slopes[:, self._repeats] = by_tokens * points.unique * limit * (1 - np.exp(-share) * (1 + share))
        if self.form.transfer:
            for number in range(len(self.methods)):
                worth = np.exp(vector[self._tau + number]) * points.source
                slopes[:, self._tau + number] = np.where(points.method == number, by_tokens * worth, 0.0)
            if self.form.others:
                slopes[:, self._omega] = by_tokens * np.exp(vector[self._omega]) * points.others
        return np.log(total), slopes / total[:, None]

    def effective(self, vector: np.ndarray, points: Points) -> np.ndarray:
        """``D_eff`` of points."""
        return self.own(vector, points) + self.borrowed(vector, points)

    def own(self, vector: np.ndarray, points: Points) -> np.ndarray:
        """``D'``: the language's own tokens, as many of new text as they are worth."""
        if not self.form.repeats:
            return points.tokens
        limit = np.exp(vector[..., self._repeats, None])
        return points.unique * (1 + limit * -np.expm1(-points.repeats / limit))

    def borrowed(self, vector: np.ndarray, points: Points) -> np.ndarray:
        """``tau S + omega O``."""
        if not self.form.transfer:
            return np.zeros(len(points))
        worth = np.exp(vector[..., self._tau + points.method]) * points.source
        if self.form.others:
            worth = worth + np.exp(vector[..., self._omega, None]) * points.others
        return worth

    def tokens_for(self, vector: np.ndarray, points: Points, log_loss: np.ndarray) -> np.ndarray:
        """``D``, all of it new text, with which runs as these points would have another loss; infinite where no amount
        of text reaches it, 0 where none is needed."""
        e, a, alpha, b, beta = vector[:5]
        left = np.exp(log_loss) - np.exp(e) - np.exp(a - alpha * np.log(points.parameters / self._parameters0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            needed = self._tokens0 * np.exp((b - np.log(left)) / beta)
        found = np.where(left > 0, needed - self.borrowed(vector, points), np.inf)
        return np.maximum(found, 0.0)

    def _terms(self, vector: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        e, a, alpha, b, beta = (vector[..., number, None] for number in range(5))
        size = np.exp(a - alpha * np.log(points.parameters / self._parameters0))
        data = np.exp(b - beta * np.log(self.effective(vector, points) / self._tokens0))
        return np.exp(e), size, data
