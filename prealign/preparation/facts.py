"""Facts, their stores and their code-switch maps: the artefact ``facts``."""

from pathlib import Path
from typing import Any

from prealign.artefacts import Artefact, Ensure, InputHashes
from prealign.config import Recipe
from prealign.data.contents import FACTS_KIND, facts_settings, period_folder
from prealign.facts.building import build_period, check_room, write_statements
from prealign.facts.drawing import Fact, draw_facts, write_facts
from prealign.facts.relations import BUILT_IN
from prealign.facts.statements import Statements
from prealign.lexicon.compiled import CompiledLexicon
from prealign.lexicon.table import read_table
from prealign.preparation.word_counts import read_counts
from prealign.stores.codeswitch_map import MAP_VERSION
from prealign.text.clone_tokenizer import CloneTokenizer


def prepare_facts(
    recipe: Recipe,
    stores: dict[str, Artefact],
    words: Artefact | None,
    lexicon: Artefact | None,
    tokenizer: CloneTokenizer,
    clone_words: dict[str, Artefact],
    hashes: InputHashes,
    ensure: Ensure,
) -> Artefact:
    """Make the artefact. ``words``: the source language's counted words, which no name shall be. Raises `UserError`."""
    statements = Statements.of(recipe, tokenizer)  # refuses a file of relations before it is hashed
    inputs = {
        "settings": facts_settings(recipe),
        "relations": hashes.of([recipe.injected_facts.relations or BUILT_IN])[0],
        "tokenizer": tokenizer.tokenizer.fingerprint,
        "languages": {name: recipe.token_offset(name) for name in recipe.languages},
        "stores": {name: stores[name].fingerprint for name in recipe.facts_languages},
        "clone_words": {name: artefact.fingerprint for name, artefact in clone_words.items()},
        "words": words.fingerprint if words is not None else None,
        "lexicon": lexicon.fingerprint if lexicon is not None else None,
        "map": MAP_VERSION,
    }

    def build(folder: Path) -> dict[str, Any]:
        settings = recipe.injected_facts
        avoid: set[str] = set()
        if words is not None:
            avoid |= {word for word, _, _ in read_counts(words.folder / "words.tsv")}
        if lexicon is not None:
            entries = read_table(lexicon.folder / "lexicon.jsonl")
            avoid |= {word.lower() for entry in entries for found in entry.translations.values() for word in found}
        relations = list(statements.relations.values())

        def tokens(name: str) -> int:
            return len(tokenizer.tokenizer.encode(" " + name))

        facts = draw_facts(settings, recipe.facts_languages, relations, tokens, avoid)
        write_facts(folder / "facts.jsonl", facts)
        table = CompiledLexicon.load(lexicon.folder, lexicon.facts["languages"]) if lexicon is not None else None
        groups: dict[tuple[str, int], list[Fact]] = {}
        for fact in facts:
            groups.setdefault((fact.language, fact.period), []).append(fact)
        written = {key: write_statements(statements, group, key[1], key[0]) for key, group in groups.items()}
        check_room(settings, list(written.values()), recipe.model.context)
        for (language, period), pieces in written.items():
            path = folder / period_folder(language, period)
            switched = table if language == recipe.source_language else None
            build_period(path, pieces, statements, stores[language].folder, period, language, switched)
        return {"count": len(facts), "statements": sum(fact.frequency for fact in facts)}

    return ensure("facts", FACTS_KIND, inputs, build)
