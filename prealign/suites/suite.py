"""A suite as ``configs/suites/NAME.yaml`` has it: rows of variants, columns of measured values, the paper's numbers."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from prealign.config.loading import CONFIGS
from prealign.config.sections import Count, Section
from prealign.errors import UserError

SUITES = CONFIGS / "suites"

Scale = Literal["demo", "mini", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Measure = Literal["lm", "alignment", "mexa", "facts", "leakage", "nli", "pawsx"]
"""Names of `prealign.evaluation.measuring.METRICS`."""


class Start(Section):
    """A run that another one starts from: its weights, through an export (``model.init: hf:...``)."""

    variant: str
    """Its variant, of the same seed."""
    recipe: str | None = None
    """Its base recipe; by default that of the run which starts from it."""


class Variant(Section):
    """Changes of a base recipe."""

    overrides: list[str] = []
    at: dict[Scale, list[str]] = {}
    """Further changes at one scale."""
    start: Start | None = None
    """The run whose weights it starts from; none: weights of its own."""


class AtScale(Section):
    """What a suite is at one scale."""

    recipe: str
    """The base recipe: a file, or its name in ``configs/`` without extension."""
    seeds: Annotated[list[int], Field(min_length=1)]
    overrides: list[str] = []
    """Changes of the base recipe for all rows."""
    notes: list[str] = []


class Column(Section):
    """A value of each row."""

    label: str
    value: str
    """Where it stands in the measurements of `launchers/evaluate.py`, keys joined by dots; of a list (by layer) the
    mean."""
    better: Literal["lower", "higher"]
    percent: bool = False
    """Measured as a share, shown and compared as a percentage."""
    chance: float | None = None
    """The share that guessing reaches."""
    digits: Count = 1


class Row(Section):
    """A variant with what the paper reports for it."""

    label: str
    variant: str
    """Name in ``variants.yaml``."""
    columns: list[str] | None = None
    """Columns that the row has; all by default."""
    paper: dict[str, float] = {}
    """By column; shares as percentages."""
    scales: list[Scale] = [*SCALES]
    recipe: str | None = None
    """A base recipe of its own."""
    overrides: list[str] = []
    """Changes of its own, beside the variant's."""
    measure_with: list[str] = []
    """Changes of the recipe for the measurement alone."""


class Suite(Section):
    """One table or figure."""

    name: str
    title: str
    measures: Annotated[list[Measure], Field(min_length=1)]
    scales: dict[Scale, AtScale]
    columns: dict[str, Column]
    rows: Annotated[list[Row], Field(min_length=1)]
    compare: list[tuple[str, str]] = []
    """Pairs of rows whose order is compared with the paper's, in each column where the paper has both; in a suite that
    the paper does not have, which of the two is ahead, in each column that both have."""
    orders: dict[str, list[tuple[str, str]]] = {}
    """By column, pairs (the better row, the worse row) that the paper states without numbers."""
    figure: Literal["perplexity", "facts", "cosine", "bars"]
    notes: list[str] = []

    @model_validator(mode="after")
    def _names_exist(self) -> "Suite":
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise ValueError(f"rows: found labels {labels}; expected each once")
        for pair in [*self.compare, *(pair for pairs in self.orders.values() for pair in pairs)]:
            for label in pair:
                if label not in labels:
                    raise ValueError(f"compare, orders: found '{label}'; expected labels of rows: {labels}")
        for key in [*self.orders, *(key for row in self.rows for key in [*row.paper, *(row.columns or [])])]:
            if key not in self.columns:
                raise ValueError(f"rows, orders: found column '{key}'; expected one of {list(self.columns)}")
        return self

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the paper says anything of its rows."""
        return bool(self.orders) or any(row.paper for row in self.rows)

    def rows_at(self, scale: str) -> list[Row]:
        """The rows that the suite has at a scale."""
        return [row for row in self.rows if scale in row.scales]


def suite_names() -> list[str]:
    """Names of all suites."""
    return sorted(path.stem for path in SUITES.glob("*.yaml") if path.stem != "variants")


def suites_at(scale: str) -> list[str]:
    """Names of the suites that a scale has."""
    return [name for name in suite_names() if scale in load_suite(name).scales]


def load_suite(name: str) -> Suite:
    """One suite by its name, or by the path of a file of one's own. Raises `UserError`."""
    path = Path(name) if name.endswith(".yaml") else SUITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"found suite '{name}'; expected one of {suite_names()}, 'all', or a YAML file")
    try:
        suite = Suite.model_validate({"name": path.stem} | yaml_mapping(path))
    except ValidationError as error:
        raise UserError(first_problem(path, error)) from None
    known = load_variants()
    for row in suite.rows:
        if row.variant not in known:
            raise UserError(
                f"{path}: rows: found variant '{row.variant}'; expected one of {list(known)} (variants.yaml)"
            )
    return suite


def load_variants() -> dict[str, Variant]:
    """The variants by name. Raises `UserError`."""
    path = SUITES / "variants.yaml"
    try:
        variants = {name: Variant.model_validate(value) for name, value in yaml_mapping(path).items()}
    except ValidationError as error:
        raise UserError(first_problem(path, error)) from None
    for name, variant in variants.items():
        first = variant.start
        if first is not None and (first.variant not in variants or variants[first.variant].start is not None):
            raise UserError(
                f"{path}: {name}.start: found variant '{first.variant}'; expected one of the file without a start of "
                f"its own"
            )
    return variants


def yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises `UserError`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); expected a YAML file") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}; expected a mapping")
    return values


def first_problem(path: Path, error: ValidationError) -> str:
    """What is wrong first with the values of a file, in one line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{path}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
