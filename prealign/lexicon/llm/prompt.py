"""What the model is asked: messages, the JSON schema of the reply, and the identity of a prompt."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prealign.config.recipe import Recipe

INSTRUCTIONS = (
    "Give every translation that a comprehensive bilingual dictionary has, for all senses and all parts of speech, the "
    "most usual first. Keep the inflection of the source word where the target language can show it (houses: Häuser). "
    "One word each wherever there is one; no articles, comments, transcriptions or examples. Write names as the target "
    "language writes them. Give an empty list where there is no translation."
)

_SYSTEM = """You are a lexicographer. The user sends a JSON list of words of this source language: {source}. Translate \
each of them into these languages:
{targets}
{instructions}
Answer with JSON alone: {{"words": [{{"word": the source word as it was sent, {example}}}, ...]}}, one object for each \
word of the list, in its order, none left out, none added."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of a recipe; ``names``: what each language, the source too, is called."""

    source: str
    names: dict[str, str]
    instructions: str

    @classmethod
    def of(cls, recipe: Recipe) -> "Prompt":
        """The prompt that a recipe with a `translation` section asks with."""
        settings = recipe.translation
        assert settings is not None
        names = {code: settings.language_names.get(code, code) for code in recipe.languages}
        return cls(recipe.source_language, names, settings.instructions or INSTRUCTIONS)

    def identity(self, language: str) -> str:
        """Hash of everything in the prompt that bears on one language's translations (12 hex digits)."""
        parts = [_SYSTEM, self.instructions, self.names[self.source], language, self.names[language]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def messages(self, words: Sequence[str], languages: Sequence[str]) -> list[dict[str, str]]:
        """Chat messages that ask for words, as the text writes them, in target languages."""
        system = _SYSTEM.format(
            source=self.names[self.source],
            targets="\n".join(f'"{code}": {self.names[code]}' for code in languages),
            instructions=self.instructions,
            example=", ".join(f'"{code}": [translations]' for code in languages),
        )
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": json.dumps(list(words), ensure_ascii=False)},
        ]


def reply_schema(languages: Sequence[str]) -> dict[str, Any]:
    """JSON schema of a reply, within what strict structured output allows."""
    translations = {"type": "array", "items": {"type": "string"}}
    entry = _object({"word": {"type": "string"}} | dict.fromkeys(languages, translations))
    return _object({"words": {"type": "array", "items": entry}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
