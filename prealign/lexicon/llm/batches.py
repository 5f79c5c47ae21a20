"""Which words go into which request."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Words to ask for in one request, all for the same languages. ``round`` counts how often they were asked for."""

    words: tuple[str, ...]
    languages: tuple[str, ...]
    round: int = 0


def requests_for(missing: Iterable[tuple[str, tuple[str, ...]]], size: int, round: int = 0) -> Iterator[Request]:
    """Requests of up to ``size`` words for (word, languages it lacks), in the order given where languages allow."""
    waiting: dict[tuple[str, ...], list[str]] = {}
    for word, languages in missing:
        if not languages:
            continue
        group = waiting.setdefault(languages, [])
        group.append(word)
        if len(group) == size:
            yield Request(tuple(group), languages, round)
            group.clear()
    for languages, group in waiting.items():
        if group:
            yield Request(tuple(group), languages, round)


def lacking(word: str, known: dict[str, dict[str, list[str]]], languages: Iterable[str]) -> tuple[str, ...]:
    """The languages in which a word has no answer yet."""
    answers = known.get(word, {})
    return tuple(language for language in languages if language not in answers)
