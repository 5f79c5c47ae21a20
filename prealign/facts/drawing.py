"""Which facts there are: drawn for every period, language and frequency, with the objects that stand against the true
one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prealign.config.facts import FactsConfig
from prealign.facts.names import Names
from prealign.facts.relations import DISTRACTORS, Relation
from prealign.random_streams import Draw, mix, permute


@dataclass(frozen=True)
class Fact:
    """``subject relation object``, written ``frequency`` times in ``language`` during ``period``.

    ``distractors``: objects of other facts of the same period, language, frequency and type, so that they are written
    as often and have as many tokens. ``template``: the first template it is written in, and the one it is tested in.
    """

    period: int
    language: str
    frequency: int
    relation: str
    template: int
    subject: str
    object: str
    distractors: tuple[str, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """The object, then the distractors."""
        return (self.object, *self.distractors)

    def template_of(self, repetition: int, templates: int) -> int:
        """The template of each of its ``frequency`` statements: one after another, from ``template`` on."""
        return (self.template + repetition) % templates


def draw_facts(
    settings: FactsConfig,
    languages: list[str],
    relations: list[Relation],
    tokens: Callable[[str], int],
    avoid: set[str],
) -> list[Fact]:
    """All facts of a run. ``tokens``, ``avoid``: see `Names`."""
    names = Names(int(mix(settings.seed, Draw.FACTS)), tokens, avoid)
    facts = []
    for period in range(settings.periods):
        for language in languages:
            for frequency in settings.frequencies:
                facts += _group(settings, relations, names, period, language, frequency)
    return facts


def _group(
    settings: FactsConfig, relations: list[Relation], names: Names, period: int, language: str, frequency: int
) -> list[Fact]:
    numbers = range(settings.per_frequency)
    chosen = [relations[number % len(relations)] for number in numbers]
    subjects = [names.draw(relation.subject) for relation in chosen]
    objects = [names.draw(relation.object) for relation in chosen]
    group = []
    for number, relation in enumerate(chosen):
        others = [objects[i] for i in numbers if i != number and chosen[i].object == relation.object]
        order = permute(np.arange(DISTRACTORS), len(others), int(mix(settings.seed, Draw.FACTS, period, number)))
        templates = len(next(iter(relation.templates.values())))
        group.append(
            Fact(
                period,
                language,
                frequency,
                relation.key,
                number // len(relations) % templates,
                subjects[number],
                objects[number],
                tuple(others[place] for place in order),
            )
        )
    return group


def write_facts(path: Path, facts: list[Fact]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(fact)) + "\n" for fact in facts), encoding="utf-8")


def read_facts(path: Path) -> Iterator[Fact]:
    """Read what `write_facts` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            values = json.loads(line)
            yield Fact(**values | {"distractors": tuple(values["distractors"])})
