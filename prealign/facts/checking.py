"""Do facts stand where they should, and nowhere else?"""

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from prealign.data.contents import SPLITS, period_folder
from prealign.data.prepared import FACTS, PreparedData
from prealign.errors import UserError
from prealign.facts.drawing import Fact, read_facts
from prealign.facts.statements import Statements
from prealign.stores.spans import chunks, span_keys, words_of_chunk
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap


def check_facts(data: PreparedData) -> None:
    """Every fact is written exactly `frequency` times in the store of its period and language, in the templates it
    should have; no word of a name occurs in any other period or language, nor in any text. Raises `UserError`."""
    folder = data.artefacts[FACTS].folder
    statements = Statements.of(data.recipe, data.clone_tokenizer)
    facts = list(read_facts(folder / "facts.jsonl"))
    groups = {key: list(group) for key, group in groupby(facts, key=lambda fact: (fact.language, fact.period))}
    keys = {key: _name_keys(data, key[0], group) for key, group in groups.items()}
    for (language, period), group in groups.items():
        prefix = folder / period_folder(language, period) / "train"
        _check_written(prefix, group, statements, language)
        others = [found for key, found in keys.items() if key != (language, period) and key[0] == language]
        _refuse_names(prefix, prefix.with_name("train.words"), others)
    for name in [*data.recipe.languages, *data.recipe.extra_texts]:
        language = name.partition(".")[0]
        every = [_name_keys(data, language, group) for group in groups.values()]
        for split in SPLITS:
            prefix = data.artefacts[name].folder / split
            _refuse_names(prefix, prefix.with_name(f"{split}.words"), every)


def _check_written(prefix: Path, facts: list[Fact], statements: Statements, language: str) -> None:
    store = TokenStore(prefix)
    lengths = store.lengths[:]
    ends = np.cumsum(lengths, dtype=np.int64)
    found = Counter(store.tokens[end - length : end].tobytes() for end, length in zip(ends, lengths))
    end = statements.end_of_document(language)
    for fact in facts:
        templates = statements.templates(fact)
        wanted = Counter(fact.template_of(repetition, templates) for repetition in range(fact.frequency))
        for template in range(templates):
            statement = np.append(statements.ids(fact, language, template), end).astype(store.dtype)
            if found[statement.tobytes()] != wanted[template]:
                raise UserError(
                    f"{prefix}.bin: found '{statements.text(fact, language, template)}' {found[statement.tobytes()]} "
                    f"times; expected {wanted[template]}; move {prefix.parent.parent} away and run launchers/prepare.py"
                )


def _name_keys(data: PreparedData, language: str, facts: Iterable[Fact]) -> np.ndarray:
    """Keys of all words of the names of facts as tokens of a language, with a space before them and without."""
    names = {name for fact in facts for name in (fact.subject, fact.object)}
    forms = [space + word for name in names for word in name.split() for space in ("", " ")]
    ids = [data.clone_tokenizer.encode(form, language) for form in forms]
    ends = np.cumsum([len(part) for part in ids])
    return np.unique(span_keys(np.concatenate(ids), np.concatenate(([0], ends[:-1])), ends))


def _refuse_names(prefix: Path, words: Path, keys: list[np.ndarray]) -> None:
    """Raise where a word of the store is one of a name."""
    if not keys:
        return
    store, word_map, wanted = TokenStore(prefix), WordMap(words), np.unique(np.concatenate(keys))
    for chunk in chunks(store):
        tokens, starts, ends, _ = words_of_chunk(store, word_map, *chunk)
        hits = int(np.isin(span_keys(tokens, starts, ends), wanted).sum()) if len(starts) else 0
        if hits:
            raise UserError(
                f"{prefix}.bin: found {hits} words that are names of injected facts; expected none outside their own "
                f"period and language; choose another facts.seed and run launchers/prepare.py"
            )
