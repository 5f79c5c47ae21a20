"""Relations and their templates, read from YAML."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prealign.config import Recipe
from prealign.errors import UserError

BUILT_IN = Path(__file__).with_name("relations.yaml")
DISTRACTORS = 3
"""What a fact's object is scored against: objects of other facts of its relation."""


@dataclass(frozen=True)
class Relation:
    """A relation between two types of entities. ``templates``: by language, equally many, with ``{s}`` and ``{o}``."""

    key: str
    subject: str
    object: str
    templates: dict[str, tuple[str, ...]]


def relations_of(recipe: Recipe) -> list[Relation]:
    """The relations of a recipe with facts. Raises `UserError`, too, where they would get too few facts each."""
    settings = recipe.injected_facts
    languages = list(dict.fromkeys(template_language(recipe, name) for name in recipe.languages))
    relations = read_relations(settings.relations or BUILT_IN, languages)
    needed = (DISTRACTORS + 1) * len(relations)
    if settings.per_frequency < needed:
        raise UserError(
            f"facts.per_frequency: found {settings.per_frequency}; expected at least {needed}, {DISTRACTORS + 1} "
            f"for each of {len(relations)} relations"
        )
    return relations


def read_relations(path: Path, languages: list[str]) -> list[Relation]:
    """The relations of a file, with their templates in each of ``languages`` (``zh-Hans`` takes those of ``zh``).

    Raises `UserError` for what cannot be read, languages without templates, and templates in which the object does not
    stand by itself, so that its tokens could depend on what is beside it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [_relation(path, str(key), value, languages) for key, value in content.items()]
    except OSError as error:
        raise UserError(f"facts.relations: '{path}' cannot be read ({error.strerror}); expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a file of relations ({reason}); expected one as {BUILT_IN.name}") from None


def template_language(recipe: Recipe, language: str) -> str:
    """The language whose templates a language takes: a clone those of its original."""
    return recipe.languages[language].clone_of or language


def _relation(path: Path, key: str, value: dict[str, Any], languages: list[str]) -> Relation:
    templates: dict[str, tuple[str, ...]] = {}
    for language in languages:
        found = value["templates"].get(language) or value["templates"].get(language.replace("_", "-").partition("-")[0])
        if not found:
            raise UserError(
                f"{path}: {key}: found no templates for '{language}'; expected some for every language of the recipe; "
                f"add them, in a file of your own that facts.relations names"
            )
        for template in found:
            if template.count("{s}") != 1 or not re.search(r"(?<= )\{o\}(?![^\W\d_])", template):
                raise UserError(
                    f"{path}: {key}.templates.{language}: found '{template}'; expected '{{s}}' and '{{o}}' once each, "
                    f"a space before '{{o}}' and no letter behind it"
                )
        templates[language] = tuple(found)
    counts = {len(found) for found in templates.values()}
    if len(counts) > 1:
        raise UserError(f"{path}: {key}: found {sorted(counts)} templates by language; expected equally many")
    return Relation(key, value["subject"], value["object"], templates)
