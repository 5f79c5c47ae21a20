"""A ladder as ``configs/scaling/SCALE.yaml`` has it: sizes, budgets of tokens and methods, as rows of a suite."""

from itertools import pairwise, product
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from prealign.config import load_recipe
from prealign.config.loading import CONFIGS
from prealign.config.sections import Count, Section
from prealign.errors import UserError
from prealign.model.shapes import parameter_count
from prealign.suites.suite import AtScale, Column, Row, Scale, Suite, first_problem, load_variants, yaml_mapping

LADDERS = CONFIGS / "scaling"


class Runs(Section):
    """Runs of every one of some sizes with every one of some methods and every combination of budgets."""

    sizes: Annotated[list[str], Field(min_length=1)] | None = None
    """All by default."""
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """All by default."""
    tokens: dict[str, Annotated[list[Count], Field(min_length=1)]] = {}
    """By language, budgets of text; ``targets`` are all target languages, each with as much. Languages that are not
    here have the recipe's."""


class Ladder(Section):
    """Sizes x budgets x methods."""

    title: str
    recipe: str
    """The base recipe: a file, or its name in ``configs/`` without extension."""
    seeds: Annotated[list[int], Field(min_length=1)]
    methods: Annotated[dict[str, str], Field(min_length=1)]
    """Label -> variant of ``suites/variants.yaml``."""
    reference: str
    """The method whose curve says how many tokens another one's loss is worth."""
    sizes: Annotated[dict[str, list[str]], Field(min_length=1)]
    """Name -> changes of the recipe, from the smallest to the largest."""
    runs: Annotated[list[Runs], Field(min_length=1)]
    notes: list[str] = []

    @model_validator(mode="after")
    def _names_exist(self) -> "Ladder":
        if self.reference not in self.methods:
            raise ValueError(f"reference: found '{self.reference}'; expected one of the methods {list(self.methods)}")
        for runs in self.runs:
            for key, names, known in (("sizes", runs.sizes, self.sizes), ("methods", runs.methods, self.methods)):
                for name in names or []:
                    if name not in known:
                        raise ValueError(f"runs: {key}: found '{name}'; expected one of {list(known)}")
        return self


class Rung(Section):
    """One row of a ladder: a size, a method, and what it reads."""

    size: str
    method: str
    tokens: dict[str, int]
    """By language, text over the whole run, as budgeted."""

    @property
    def label(self) -> str:
        """For the lists of runs."""
        spent = ", ".join(f"{language} {count:,}" for language, count in self.tokens.items())
        return f"{self.size} {self.method}: {spent}"


def load_ladder(name: str) -> Ladder:
    """A ladder by its scale, or by the path of a file of one's own. Raises `UserError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else LADDERS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in LADDERS.glob("*.yaml"))
        raise UserError(f"--ladder: found '{name}'; expected a YAML file, or one of {known}")
    try:
        ladder = Ladder.model_validate(yaml_mapping(path))
    except ValidationError as error:
        raise UserError(first_problem(path, error)) from None
    variants = load_variants()
    for variant in ladder.methods.values():
        if variant not in variants:
            raise UserError(f"{path}: methods: found variant '{variant}'; expected one of {list(variants)}")
    languages = load_recipe(ladder.recipe).languages
    for runs in ladder.runs:
        for language in runs.tokens:
            if language not in (*languages, "targets"):
                raise UserError(
                    f"{path}: runs: tokens: found '{language}'; expected 'targets' or languages of {ladder.recipe}: "
                    f"{list(languages)}"
                )
    _expect_ascending(path, ladder)
    return ladder


def _expect_ascending(path: Path, ladder: Ladder) -> None:
    counts = {name: parameter_count(load_recipe(ladder.recipe, changes)) for name, changes in ladder.sizes.items()}
    for (one, fewer), (other, more) in pairwise(counts.items()):
        if fewer >= more:
            raise UserError(
                f"{path}: sizes: found {other} ({more:,} parameters) after {one} ({fewer:,}); expected them from the "
                f"smallest to the largest, which laws are tested on"
            )


def rungs_of(ladder: Ladder) -> list[Rung]:
    """Every run of a ladder once, from the smallest size to the largest."""
    recipe = load_recipe(ladder.recipe)
    base = {name: language.tokens or 0 for name, language in recipe.languages.items()}
    found: dict[str, Rung] = {}
    for runs in ladder.runs:
        axes = [[(language, count) for count in counts] for language, counts in runs.tokens.items()]
        for size, budgets, method in product(
            runs.sizes or ladder.sizes, product(*axes), runs.methods or ladder.methods
        ):
            tokens = dict(base)
            for language, count in budgets:
                tokens |= dict.fromkeys(recipe.targets if language == "targets" else [language], count)
            rung = Rung(size=size, method=method, tokens=tokens)
            found.setdefault(rung.label, rung)
    order = list(ladder.sizes)
    return sorted(found.values(), key=lambda rung: order.index(rung.size))


def suite_of(ladder: Ladder, scale: Scale) -> Suite:
    """The ladder as a suite, a row for each of `rungs_of`, which is expanded, trained and measured as others are."""
    recipe = load_recipe(ladder.recipe)
    base = {name: language.tokens or 0 for name, language in recipe.languages.items()}
    rows = []
    for rung in rungs_of(ladder):
        changed = [f"languages.{name}.tokens={count}" for name, count in rung.tokens.items() if count != base[name]]
        rows.append(
            Row(
                label=rung.label,
                variant=ladder.methods[rung.method],
                overrides=[*ladder.sizes[rung.size], *changed],
            )
        )
    columns = {
        name: Column(label=f"LM {name}", value=f"lm.{name}.perplexity", better="lower") for name in recipe.languages
    }
    return Suite(
        name="scaling",
        title=ladder.title,
        measures=["lm"],
        scales={scale: AtScale(recipe=ladder.recipe, seeds=ladder.seeds)},
        columns=columns,
        rows=rows,
        figure="perplexity",
        notes=ladder.notes,
    )
