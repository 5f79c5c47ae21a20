"""What a translation will take: requests, tokens, money, time. Nothing is sent."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prealign.config.translation import TranslationConfig
from prealign.lexicon.llm.batches import Request
from prealign.lexicon.llm.prompt import Prompt, reply_schema

_TRANSLATIONS = 3
"""Assumed per word and language, each as long as the word, until replies show what it is."""


@dataclass(frozen=True)
class Estimate:
    """Of first requests alone; repeated ones come on top. ``cost`` is None without prices."""

    requests: int
    translations: int
    """Pairs of a word and a language."""
    input_tokens: int
    output_tokens: int
    cost: float | None
    minutes: float
    """At least, by `translation.requests_per_minute`."""


def estimate(
    requests: Iterable[Request],
    words: dict[str, str],
    prompt: Prompt,
    settings: TranslationConfig,
    count_tokens: Callable[[str], int],
    output_tokens_per_translation: float | None,
) -> Estimate:
    """Estimate requests. ``count_tokens``: tokens of a text; ``output_tokens_per_translation``: as measured, or None
    for the assumption of three translations as long as the word."""
    number = translations = sent = received = 0
    fixed: dict[tuple[str, ...], int] = {}  # tokens that every request for these languages has
    for request in requests:
        system, user = prompt.messages([words[word] for word in request.words], request.languages)
        if request.languages not in fixed:
            schema = (
                json.dumps(reply_schema(request.languages)) if settings.reply_format in ("auto", "json_schema") else ""
            )
            fixed[request.languages] = count_tokens(system["content"]) + count_tokens(schema)
        number += 1
        translations += len(request.words) * len(request.languages)
        sent += fixed[request.languages] + count_tokens(user["content"])
        if output_tokens_per_translation is None:
            entries = [
                {"word": words[word]} | {language: [words[word]] * _TRANSLATIONS for language in request.languages}
                for word in request.words
            ]
            received += count_tokens(json.dumps({"words": entries}, ensure_ascii=False))
    if output_tokens_per_translation is not None:
        received = round(output_tokens_per_translation * translations)
    return Estimate(
        number, translations, sent, received, cost(settings, sent, received), number / settings.requests_per_minute
    )


def cost(settings: TranslationConfig, input_tokens: int, output_tokens: int) -> float | None:
    """Price of tokens by the recipe; None where it states none."""
    if settings.input_price is None or settings.output_price is None:
        return None
    return (input_tokens * settings.input_price + output_tokens * settings.output_price) / 1e6
