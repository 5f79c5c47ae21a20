"""Facts as statements in any language of a recipe, as text and as token ids."""

from dataclasses import dataclass

import numpy as np

from prealign.config import Recipe
from prealign.facts.drawing import Fact
from prealign.facts.relations import Relation, relations_of, template_language
from prealign.text.clone_tokenizer import CloneTokenizer


@dataclass(frozen=True)
class Statements:
    """Writes facts down. Make one with `of`."""

    recipe: Recipe
    tokenizer: CloneTokenizer
    relations: dict[str, Relation]

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: CloneTokenizer) -> "Statements":
        """With the recipe's relations. Raises `UserError`."""
        return cls(recipe, tokenizer, {relation.key: relation for relation in relations_of(recipe)})

    def templates(self, fact: Fact) -> int:
        """How many templates the fact's relation has."""
        return len(next(iter(self.relations[fact.relation].templates.values())))

    def text(self, fact: Fact, language: str, template: int, name: str | None = None) -> str:
        """The statement; a clone's in the words of its original. ``name``: in place of the object."""
        written = self.relations[fact.relation].templates[template_language(self.recipe, language)][template]
        return written.replace("{s}", fact.subject).replace("{o}", name or fact.object)

    def ids(self, fact: Fact, language: str, template: int, name: str | None = None) -> np.ndarray:
        """Token ids (int64) of `text`, without end-of-document."""
        return self.tokenizer.encode(self.text(fact, language, template, name), language)

    def end_of_document(self, language: str) -> int:
        """The language's end-of-document token."""
        return self.tokenizer.tokenizer.end_of_document + self.recipe.token_offset(language)
