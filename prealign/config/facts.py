"""The section of the recipe about injected facts: the paper's cross-lingual knowledge application, CLKA."""

from typing import Annotated

from pydantic import Field, field_validator

from prealign.config.paths import ExpandedPath
from prealign.config.sections import Count, Section
from prealign.config.texts import ShareConfig

_MARK = "facts+"


class FactsConfig(Section):
    """Statements about artificial entities, each written into the training text of one period of the pretrain stage and
    scored at its end, in every language::

        facts: {periods: 20}
        facts: {periods: 4, period: 50, frequencies: [20], per_frequency: 48}

    Each period has facts of its own for every language of `learned_in`. They are further sources of that language
    (``en.facts+0`` and following), whose tokens come on top of the language's own; English ones are code-switched as
    English text is. `launchers/prepare.py` makes them, training scores them (``facts/LEARNED/TESTED/fN`` in
    `metrics.jsonl`), and `launchers/evaluate.py` brings the periods together.
    """

    periods: Count
    """Periods, one after another, that the pretrain stage must have room for."""
    period: Count = 250
    """Steps of a period."""
    first_step: Annotated[int, Field(ge=0)] = 0
    """Step of the pretrain stage at which the first period begins."""
    frequencies: Annotated[list[Count], Field(min_length=1)] = [5, 20, 50]
    """How often a fact is written in its period; one set of facts for each."""
    per_frequency: Count = 40
    """Facts of each frequency in a period, for each language of `learned_in`; at least four for each relation."""
    learned_in: list[str] | None = None
    """Languages in which facts are written; by default the source language and its clones. All languages are tested."""
    statement_tokens: Count = 24
    """Room for a statement with its end-of-document token, on average; what is left is filled with ordinary text of the
    language. `launchers/prepare.py` says how many are needed where this is too few."""
    relations: ExpandedPath | None = None
    """A YAML file in place of `prealign/facts/relations.yaml`: other relations, templates, languages."""
    seed: int = 1
    """Of entities and facts."""

    @field_validator("frequencies")
    @classmethod
    def _ascending(cls, frequencies: list[int]) -> list[int]:
        if frequencies != sorted(set(frequencies)):
            raise ValueError(f"found {frequencies}; expected ascending numbers, each once")
        return frequencies

    @property
    def statements(self) -> int:
        """Statements written in a period, for each language."""
        return self.per_frequency * sum(self.frequencies)

    def windows(self, context: int) -> int:
        """Samples that hold the statements of a period, for each language."""
        return -(-self.statements * self.statement_tokens // statement_room(context))

    def steps(self, period: int) -> tuple[int, int]:
        """First step of a period, and one past its last."""
        first = self.first_step + period * self.period
        return first, first + self.period

    def ended(self, steps: int) -> int | None:
        """The last period that has ended after so many steps of the pretrain stage; None before the first end."""
        count = min((steps - self.first_step) // self.period, self.periods)
        return count - 1 if count > 0 else None

    def ends_at(self, steps: int) -> bool:
        """Whether a period ends after exactly so many steps."""
        period = self.ended(steps)
        return period is not None and self.steps(period)[1] == steps

    def sources(self, languages: list[str], context: int) -> dict[str, ShareConfig]:
        """Sources of the sample stream: every period's facts in each of ``languages``, by name."""
        tokens = self.windows(context) * context
        return {
            source_name(language, period): ShareConfig(tokens=tokens, active=self.steps(period))
            for language in languages
            for period in range(self.periods)
        }


def statement_room(context: int) -> int:
    """Tokens of a sample that statements may take; the rest keeps them from its edges, where code-switching, which
    changes lengths, could cut or repeat them."""
    return context - max(2, context // 8)


def source_name(language: str, period: int) -> str:
    """The name of a period's facts among the sources."""
    return f"{language}.{_MARK}{period}"


def facts_period(source: str) -> int | None:
    """The period of a source of facts; None for other sources."""
    extra = source.partition(".")[2]
    return int(extra.removeprefix(_MARK)) if extra.startswith(_MARK) else None
