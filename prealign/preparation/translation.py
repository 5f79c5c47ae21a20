"""Source words -> word lists by an LLM, beside the prepared text.

Under ``data.dir/llm``: ``llm-<language>.tsv`` (``source<tab>translation``, most frequent word first, best
translation first: a word list as `languages.*.dictionaries` takes it), ``failed.tsv`` (``word<tab>language<tab>reason``
for every word of the last run without a translation) and ``cache.jsonl`` (every reply,
`prealign.lexicon.llm.cache`).
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken

from prealign.artefacts import Artefact, ensure, open_artefact
from prealign.config import Recipe
from prealign.config.translation import TranslationConfig
from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.lexicon.llm.batches import lacking, requests_for
from prealign.lexicon.llm.cache import Cache
from prealign.lexicon.llm.endpoint import Endpoint
from prealign.lexicon.llm.estimate import cost, estimate
from prealign.lexicon.llm.prompt import Prompt
from prealign.lexicon.llm.translating import translate_words
from prealign.preparation.alignment_table import count_source_words
from prealign.preparation.word_counts import CountedWord, read_counts
from prealign.text.tokenizer import Tokenizer

MAX_WORD_LENGTH = 64
"""Letters; longer runs of letters are no words and are not asked for."""

Say = Callable[[str], None]
Build = Callable[[Path], dict[str, Any]]


class WordTranslation:
    """Translation of a recipe's source words; the methods are what `launchers/translate.py` does.

    ``languages``: targets to translate into, all but clones by default. ``limit``: only so many words, the most
    frequent ones. Raises `UserError`.
    """

    def __init__(self, recipe: Recipe, languages: list[str] | None, limit: int | None, say: Say) -> None:
        if recipe.translation is None:
            raise UserError("translation: missing in the recipe; expected at least translation: {model: NAME}")
        if limit is not None and limit < 1:
            raise UserError(f"--limit: found {limit}; expected at least 1")
        self.recipe = recipe
        self.settings: TranslationConfig = recipe.translation
        self.languages = _chosen(recipe, languages)
        self.folder = recipe.data.dir / "llm"
        self.prompt = Prompt.of(recipe)
        self.say = say
        self.all_words = self._source_words()
        fragments = {word.lower() for word in recipe.languages[recipe.source_language].fragments}
        wanted = [
            (word, case)
            for word, count, case in self.all_words
            if count >= recipe.lexicon.min_count and word not in fragments
        ]
        wanted = wanted[: max(1, round(self.settings.top_fraction * len(wanted)))][:limit]
        self.words = {word: _as_written(word, case) for word, case in wanted if len(word) <= MAX_WORD_LENGTH}
        """What is asked for: word -> as the text writes it, most frequent first."""
        self.too_long = [word for word, _ in wanted if len(word) > MAX_WORD_LENGTH]

    def dry_run(self) -> None:
        """Print requests, tokens, cost and the first request; send nothing, need no key, write no result."""
        cache = self._cache(read_only=True)
        missing = [(word, lacking(word, cache.known, self.languages)) for word in self.words]
        requests = list(requests_for(missing, self.settings.words_per_request))
        self._say_words(cache)
        encode, how = self._token_counter()
        known = sum(language in answer for answer in cache.known.values() for language in self.languages)
        measured = cache.output_tokens / known if known and cache.output_tokens else None
        result = estimate(requests, self.words, self.prompt, self.settings, encode, measured)
        self.say(
            f"to ask for: {result.translations:,} translations (words x languages) in {result.requests:,} requests of "
            f"up to {self.settings.words_per_request} words; at least {result.minutes:.1f} minutes"
        )
        basis = "as in the replies so far" if measured else "assuming three translations as long as the word"
        self.say(f"tokens: {result.input_tokens:,} in ({how}), {result.output_tokens:,} out ({basis})")
        unknown = "unknown; set translation.input_price and output_price"
        self.say(f"cost: {unknown if result.cost is None else f'{result.cost:,.2f}'}; repeated requests come on top")
        if requests:
            first = requests[0]
            for message in self.prompt.messages([self.words[word] for word in first.words], first.languages):
                self.say(f"--- first request, {message['role']}:\n{message['content']}")

    def run(self, stop: threading.Event) -> bool:
        """Translate until every word is answered or listed, or ``stop`` is set; write the word lists.

        Returns whether every word has an answer.
        """
        key = os.environ.get(self.settings.key_variable)
        if key is None:
            raise UserError(
                f"environment variable {self.settings.key_variable}: not set; expected the endpoint's key (any word "
                "will do for an endpoint without keys); translation.key_variable names another variable"
            )
        cache = self._cache()
        try:
            spent = cache.input_tokens, cache.output_tokens
            self._say_words(cache)
            endpoint = Endpoint(self.settings, key.strip(), stop)
            outcome = translate_words(
                self.words, self.languages, self.prompt, endpoint, cache, self.settings, stop, self.say
            )
            received = cache.input_tokens - spent[0], cache.output_tokens - spent[1]
            price = cost(self.settings, *received)
            self.say(
                f"{endpoint.requests:,} requests, {endpoint.retries:,} of them repeated; tokens: {received[0]:,} in, "
                f"{received[1]:,} out" + ("" if price is None else f"; cost: {price:,.2f}")
            )
            self._write(cache, outcome.failed)
        finally:
            cache.close()
        if outcome.error is not None:
            raise outcome.error
        if outcome.failed:
            why = f" ({outcome.stopped})" if outcome.stopped else ""
            self.say(f"{len(outcome.failed):,} translations have no answer{why}; the same command asks for them again")
        return not outcome.failed

    def _source_words(self) -> list[CountedWord]:
        data = self.recipe.data.dir
        store = open_artefact(data / self.recipe.source_language, "token store")
        tokenizer = open_artefact(data / "tokenizer", "tokenizer")

        def ensured(name: str, kind: str, inputs: dict[str, Any], build: Build) -> Artefact:
            return ensure(data / name, kind, inputs, build)[0]

        try:
            words = count_source_words(store, Tokenizer.load(tokenizer.folder), ensured)
        except OSError as error:
            raise self._unwritable(error) from None
        return list(read_counts(words.folder / "words.tsv"))

    def _cache(self, read_only: bool = False) -> Cache:
        identities = {language: self.prompt.identity(language) for language in self.languages}
        cache = Cache(self.folder / "cache.jsonl", self.settings.model, identities, read_only)
        if cache.damaged_lines:
            self.say(f"{cache.path}: {cache.damaged_lines} lines cannot be read and are left out")
        return cache

    def _say_words(self, cache: Cache) -> None:
        known = sum(not lacking(word, cache.known, self.languages) for word in self.words)
        self.say(
            f"{len(self.words):,} words of '{self.recipe.source_language}' into {', '.join(self.languages)} by "
            f"{self.settings.model}; {known:,} of them are in {cache.path}"
        )

    def _write(self, cache: Cache, failed: dict[tuple[str, str], str]) -> None:
        """Word lists of all that the cache knows of the corpus, and the words of this run without a translation."""
        listed = dict(failed) | {
            (word, language): f"longer than {MAX_WORD_LENGTH} letters; not asked for"
            for word in self.too_long
            for language in self.languages
        }
        try:
            for language in self.languages:
                lines, words = [], 0
                for word, _, _ in self.all_words:
                    answers = cache.known.get(word, {}).get(language)
                    if answers:
                        words += 1
                        lines += [f"{word}\t{answer}\n" for answer in answers]
                    elif answers is not None and word in self.words:
                        listed[word, language] = "the model knows no translation"
                path = self.folder / f"llm-{language}.tsv"
                write_atomically(path, "".join(lines))
                self.say(f"wrote {path}: {words:,} words, {len(lines):,} translations")
            path = self.folder / "failed.tsv"
            write_atomically(path, "".join(f"{word}\t{code}\t{why}\n" for (word, code), why in listed.items()))
        except OSError as error:
            raise self._unwritable(error) from None
        self.say(f"wrote {path}: {len(listed):,} words x languages without a translation")

    def _token_counter(self) -> tuple[Callable[[str], int], str]:
        """Counts the tokens of a text, and the name of what it counts with."""
        name = self.settings.encoding
        if name not in tiktoken.list_encoding_names():
            raise UserError(f"translation.encoding: found '{name}'; expected one of {tiktoken.list_encoding_names()}")
        try:
            encoding = tiktoken.get_encoding(name)
            return lambda text: len(encoding.encode_ordinary(text)), name
        except Exception:  # whatever the download raises where there is no network
            tokenizer = Tokenizer.load(self.recipe.data.dir / "tokenizer")
            return lambda text: len(tokenizer.encode(text)), f"by the recipe's tokenizer, as {name} cannot be fetched"

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.folder}: cannot be written ({error.strerror or error}); free space or mend rights")


def _chosen(recipe: Recipe, languages: list[str] | None) -> list[str]:
    """Target languages in recipe order."""
    possible = [name for name in recipe.targets if recipe.languages[name].clone_of is None]
    for name in languages or []:
        if name not in possible:
            raise UserError(f"--languages: found '{name}'; expected some of {possible} (targets that are no clones)")
    chosen = [name for name in possible if languages is None or name in languages]
    if not chosen:
        raise UserError(
            f"languages: found no target language to translate into; expected one beside {list(recipe.languages)}"
        )
    return chosen


def _as_written(word: str, case: int) -> str:
    """A case-folded word in its usual case (`prealign.preparation.word_counts`)."""
    return (word, word[:1].upper() + word[1:], word.upper())[case]
