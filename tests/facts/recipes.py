"""A small corpus with injected facts, for tests."""

from pathlib import Path
from typing import Any

from prealign.config import Recipe
from tests.conftest import tiny_recipe

RELATIONS = """
P19:
  subject: person
  object: city
  templates:
    en: ["{s} was born in the city of {o}.", "The home of {s} is {o}.", "{s} is from {o}!"]
P36:
  subject: country
  object: city
  templates:
    en: ["The capital of {s} is {o}.", "{s} has its seat in {o}.", "In {s} all go to {o}."]
"""


def facts_recipe(folder: Path, clone_level: str = "token", **changes: Any) -> Recipe:
    """Three periods of four steps; eight facts for each of two frequencies, in English and in the clone."""
    (folder / "relations.yaml").write_text(RELATIONS)
    english = tiny_recipe(folder / "data").model_dump(mode="json")["languages"]["en"]
    facts = {"periods": 3, "period": 4, "first_step": 2, "frequencies": [1, 3], "per_frequency": 8}
    facts |= {"relations": str(folder / "relations.yaml"), "statement_tokens": 36} | changes.pop("facts", {})
    return tiny_recipe(
        folder / "data",
        languages={
            "en": english | {"tokens": 32_768},
            "clone": {"tokens": 4_096, "clone_of": "en", "clone_share": 0.2, "clone_level": clone_level},
        },
        model={"context": 128},
        facts=facts,
        **changes,
    )
