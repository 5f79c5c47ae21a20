"""The user's files that runs of a plan are prepared from: looked for before anything starts."""

from collections.abc import Iterator
from pathlib import Path

from prealign.config import Recipe
from prealign.config.texts import TextConfig
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.lexicon.dictionaries import dictionary_files
from prealign.preparation.token_documents import store_prefixes
from prealign.text.reading import text_files


def missing_inputs(recipe: Recipe) -> str | None:
    """A line that says which text and dictionaries of a recipe are not there, by the keys that give them; None where
    all are."""
    problems = list(_problems(recipe))
    if not problems:
        return None
    keys = dict.fromkeys(key for key, _ in problems)
    return f"{problems[0][1].removesuffix('; mend the path')}; give {' '.join(f'{key}=[...]' for key in keys)}"


def is_prepared(recipe: Recipe) -> bool:
    """Whether a recipe's data is there, prepared, so that it can be trained on without its text."""
    try:
        open_data(recipe)
    except UserError:
        return False
    return True


def _problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Key and error of every text and dictionary that is not there, language by language. Texts of the hub are not
    looked for, nor dictionaries in `data.dir`, which `launchers/translate.py` writes there."""
    for name, language in recipe.languages.items():
        for source in [name, *(each for each in recipe.extra_texts if each.partition(".")[0] == name)]:
            text = getattr(recipe.sources[source], "text", None)
            if isinstance(text, TextConfig) and text.hub is None:
                key = f"{recipe.source_key(source)}.text"
                try:
                    text_files(text, key) if text.files else store_prefixes(text, key)
                except UserError as error:
                    yield f"{key}.{'files' if text.files else 'store'}", str(error)
        for dictionary in language.dictionaries:
            if Path(dictionary.path).resolve().is_relative_to(recipe.data.dir.resolve()):
                continue
            try:
                dictionary_files(dictionary)
            except UserError as error:
                yield f"languages.{name}.dictionaries", str(error)
