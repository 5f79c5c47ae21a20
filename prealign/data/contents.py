"""What lies in ``data.dir``, and what of a recipe it depends on: for those who write it and those who read it."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.artefacts import Artefact
from prealign.config import Recipe
from prealign.config.texts import DictionaryConfig, TextConfig
from prealign.errors import UserError
from prealign.text.clone_words import CloneWords
from prealign.text.tokenizer import SPECIAL_TOKENS, read_special_tokens

SPLITS = ("train", "dev", "test")
"""What a run trains on, what it is watched and tuned on, and what its results are reported on."""

HELDOUT = ("dev", "test")

FACTS_KIND = "injected facts"

CLEANING_VERSION = 2
"""Part of what a table is made from: higher when cleaning or merging gives another table of the same files."""

WAYPOINTS = {
    "words": "word counts",
    "translations": "merged dictionaries",
    "heldout_words": "held-out words",
    "coverage": "coverage report",
}
"""Artefacts beside the compiled table, name -> kind: what it was made from, and what is said of it."""


@dataclass(frozen=True)
class Split:
    """Which documents go where, by content: ``u`` uniform in [0, 1) from the document's hash.

    ``u < heldout``: held out, the lower half for ``dev``, the upper for ``test``. ``heldout <= u < heldout + clone``:
    clone text, where ``clone`` is the summed share of all clones. Else training text of the language itself.
    """

    heldout: float
    clone_shares: tuple[float, ...] = ()

    def role_of(self, document: str) -> str | int:
        """`role` of a document's text."""
        return self.role(document_hash(document))

    def role(self, digest: bytes) -> str | int:
        """``"dev"``, ``"test"``, the number of a clone, or ``"train"``."""
        u = int.from_bytes(digest[:8], "little") / 2.0**64
        if u < self.heldout:
            return "dev" if u < self.heldout / 2 else "test"
        limit = self.heldout
        for number, share in enumerate(self.clone_shares):
            limit += share * (1.0 - self.heldout)
            if u < limit:
                return number
        return "train"


def document_hash(document: str | bytes) -> bytes:
    """16 bytes that stand for a document's exact text, of which bytes are the UTF-8."""
    return hashlib.blake2b(document.encode() if isinstance(document, str) else document, digest_size=16).digest()


def check_end_of_document(recipe: Recipe, folder: Path) -> None:
    """Raise `UserError` unless the recipe names the end-of-document token of the tokenizer that ``folder`` holds."""
    special = read_special_tokens(folder / SPECIAL_TOKENS)
    settings = recipe.data.tokenizer
    expected = special.ids[special.end] if special is not None else settings.vocab_size - 1
    if settings.end_id != expected:
        found = settings.end_of_document if settings.end_of_document is not None else f"none, so {settings.end_id}"
        raise UserError(
            f"data.tokenizer.end_of_document: found {found}; the tokenizer in {folder} ends documents with {expected}; "
            f"set the key to that"
        )


def text_settings(recipe: Recipe, text: TextConfig) -> dict[str, Any]:
    """What a store depends on of its text in a recipe, without the content of files."""
    settings = text.model_dump(mode="json", exclude={"files", "store"}) | {"invalid_utf8": recipe.data.invalid_utf8}
    return settings | ({"store": True} if text.store else {})


def split_of(recipe: Recipe, name: str) -> Split:
    """How the documents of a language are split."""
    shares = [lang.clone_share for lang in recipe.languages.values() if lang.clone_of == name]
    return Split(recipe.data.heldout_fraction, tuple(shares))


def load_clone_words(artefact: Artefact) -> CloneWords:
    """The bijection that an artefact holds."""
    return CloneWords.load(artefact.folder / "words.tsv")


def codeswitch_folder(source: str) -> str:
    """The folder of a source's code-switch map; ``source`` is one of `switched_sources`."""
    _, _, extra = source.partition(".")
    return f"codeswitch.{extra}" if extra else "codeswitch"


def switched_sources(recipe: Recipe) -> list[str]:
    """The texts in the source language, which are code-switched; so are its facts, whose maps lie beside them."""
    texts = [*recipe.languages, *recipe.extra_texts]
    return [name for name in texts if name.partition(".")[0] == recipe.source_language]


def has_lexicon(recipe: Recipe) -> bool:
    """Whether any target language brings translations."""
    languages = [recipe.languages[name] for name in recipe.targets]
    return any(lang.dictionaries or lang.clone_of == recipe.source_language for lang in languages)


def translation_settings(recipe: Recipe) -> dict[str, Any]:
    """What the merged dictionaries depend on in a recipe, without the content of files."""
    traits = {"scripts", "cased", "word_length", "leading_words", "fragments", "optional_marks", "codes"}
    return {
        "dictionaries": [
            {"name": name, "codes": codes}
            | dictionary.model_dump(mode="json", include={"format", "inverted", "traditional"})
            for name, dictionary, codes in dictionaries_by_file(recipe)
        ],
        "clones": [name for name in recipe.targets if recipe.languages[name].clone_of == recipe.source_language],
        "facts": {  # as manifests call them
            name: recipe.languages[name].model_dump(mode="json", include=traits)
            for name in [recipe.source_language, *recipe.targets]
        },
        "min_count": recipe.lexicon.min_count,
        "max_words": recipe.lexicon.max_words,
        "max_translations": recipe.lexicon.max_translations,
        "max_sources": recipe.lexicon.max_sources,
        "cleaning": CLEANING_VERSION,
    }


def dictionaries_by_file(recipe: Recipe) -> list[tuple[str, DictionaryConfig, dict[str, list[str]]]]:
    """(name, dictionary, codes by language) for each file to read: one that several languages name is read once."""
    readings: dict[tuple[Any, ...], tuple[DictionaryConfig, dict[str, list[str]]]] = {}
    for name in recipe.targets:
        language = recipe.languages[name]
        for dictionary in language.dictionaries:
            key = (dictionary.path, dictionary.format, dictionary.inverted, dictionary.traditional)
            readings.setdefault(key, (dictionary, {}))[1][name] = dictionary.codes or language.codes or [name]
    paths = {dictionary.path for dictionary, _ in readings.values()}
    short = Counter(Path(path).name for path in paths)
    return [
        (name if short[name := Path(dictionary.path).name] == 1 else dictionary.path, dictionary, codes)
        for dictionary, codes in readings.values()
    ]


def facts_settings(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says of facts, as the artefact keeps it."""
    values = recipe.injected_facts.model_dump(mode="json", exclude={"relations", "learned_in", "period", "first_step"})
    return values | {"learned_in": recipe.facts_languages, "context": recipe.model.context}


def period_folder(language: str, period: int) -> str:
    """Where the store of a period and language lies in the artefact."""
    return f"{language}-{period}"
