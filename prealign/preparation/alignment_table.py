"""Source store and dictionaries -> alignment table, in steps that are each an artefact of their own.

``words``: the source language's words, counted. ``translations``: all dictionaries merged and joined with them.
``heldout_words``: the part that is kept for evaluation. ``lexicon``: the rest, compiled. ``coverage``: a report on it.
A changed dictionary leaves the stores and ``words`` as they are.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prealign.artefacts import Artefact, Ensure, InputHashes
from prealign.config import Recipe
from prealign.data.contents import WAYPOINTS, dictionaries_by_file, translation_settings
from prealign.errors import UserError
from prealign.lexicon.cleaning import Cleaner, Dropped
from prealign.lexicon.compiled import compile_table
from prealign.lexicon.coverage import add_dropped, dropped_as_dict, measure_coverage, measure_target_text
from prealign.lexicon.dictionaries import dictionary_files, read_dictionary
from prealign.lexicon.heldout import heldout_entries, spellings, training_entries
from prealign.lexicon.merging import Merger
from prealign.lexicon.table import Entry, read_table, write_table
from prealign.preparation.word_counts import count_words, read_counts, write_counts
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.clone_words import CloneWords
from prealign.text.segmentation import count_segmented, segmenter_version
from prealign.text.tokenizer import Tokenizer

COVERAGE_VERSION = 2
"""Part of what a report is made from: higher when it says something else of the same table."""


def prepare_lexicon(
    recipe: Recipe,
    stores: dict[str, Artefact],
    clone_words: dict[str, Artefact],
    tokenizer: Tokenizer,
    hashes: InputHashes,
    ensure: Ensure,
) -> Artefact:
    """Make the artefacts of the alignment table; returns the compiled table.

    ``stores``: the token stores by language. ``clone_words``: the bijections of clones at word level, by clone. Raises
    `UserError`.
    """
    source = recipe.languages[recipe.source_language]
    if not source.space_prefix:
        raise UserError(
            f"source_language: found '{recipe.source_language}', which is written without spaces; expected a language "
            "whose words stand between spaces, since the table is made of them; choose another source_language"
        )
    words = count_source_words(stores[recipe.source_language], tokenizer, ensure)
    translations = _translations(recipe, words, clone_words, hashes, ensure)
    heldout = _heldout(recipe, words, translations, ensure) if recipe.lexicon.heldout_fraction > 0 else None
    lexicon = _table(recipe, words, translations, heldout, tokenizer, ensure)
    _coverage(recipe, stores, words, translations, lexicon, tokenizer, ensure)
    return lexicon


def count_source_words(store: Artefact, tokenizer: Tokenizer, ensure: Ensure) -> Artefact:
    """The artefact ``words``: ``words.tsv`` as `prealign.preparation.word_counts.write_counts` writes it."""

    def build(folder: Path) -> dict[str, Any]:
        scratch = folder / "scratch"
        scratch.mkdir()
        counts = count_words(
            TokenStore(store.folder / "train"), WordMap(store.folder / "train.words"), tokenizer, scratch
        )
        types, occurrences = write_counts(folder / "words.tsv", counts)
        shutil.rmtree(scratch)
        return {"words": types, "occurrences": occurrences}

    inputs = {"store": store.fingerprint, "tokenizer": tokenizer.fingerprint}
    return ensure("words", WAYPOINTS["words"], inputs, build)


def _translations(
    recipe: Recipe, words: Artefact, clone_words: dict[str, Artefact], hashes: InputHashes, ensure: Ensure
) -> Artefact:
    languages = recipe.languages
    targets = recipe.targets
    clones = [name for name in targets if languages[name].clone_of == recipe.source_language]
    dictionaries = dictionaries_by_file(recipe)
    inputs = translation_settings(recipe)
    for settings, (_, dictionary, _) in zip(inputs["dictionaries"], dictionaries):
        settings["sha256"] = hashes.of(dictionary_files(dictionary))
    inputs |= {
        "words": words.fingerprint,
        "clone_words": {name: clone_words[name].fingerprint for name in clones if name in clone_words},
    }

    def build(folder: Path) -> dict[str, Any]:
        source = languages[recipe.source_language]
        cleaners = {name: Cleaner(languages[name], recipe.lexicon.max_words) for name in targets}
        merger = Merger(Cleaner(source, max_words=1), cleaners)
        source_codes = source.codes or [recipe.source_language]
        for name, dictionary, codes in dictionaries:
            merger.add(name, read_dictionary(dictionary, source_codes, codes))
        counts = read_counts(words.folder / "words.tsv")
        limits = (recipe.lexicon.min_count, recipe.lexicon.max_translations, recipe.lexicon.max_sources)
        entries = merger.join(counts, clones, *limits)
        bijections = {
            name: CloneWords.load(clone_words[name].folder / "words.tsv") for name in clones if name in clone_words
        }
        count = write_table(folder / "translations.jsonl", _with_clone_words(entries, bijections))
        if count == 0:
            raise UserError(
                f"languages: none of the {words.facts['words']} words of '{recipe.source_language}' has a "
                f"translation{_why(merger.dropped)}; expected dictionaries (languages.*.dictionaries) or a clone "
                "language that know words of the text"
            )
        report = {"read": merger.read, "dropped": dropped_as_dict(merger.dropped)}
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return {"entries": count}

    return ensure("translations", WAYPOINTS["translations"], inputs, build)


def _with_clone_words(entries: Iterable[Entry], words: dict[str, CloneWords]) -> Iterator[Entry]:
    """Give the clones at word level their own words in place of the original's."""
    for entry in entries:
        for name, clone in words.items():
            entry.translations[name] = [clone.to_clone(entry.word)]
        yield entry


def _why(dropped: dict[str, Dropped]) -> str:
    """The most frequent reason why pairs were left out, for the error of an empty table."""
    total = sum((value.counts for value in dropped.values()), Counter())
    if not total:
        return ""
    reason, pairs = total.most_common(1)[0]
    return f" ({pairs} pairs left out: {reason})"


def _heldout(recipe: Recipe, words: Artefact, translations: Artefact, ensure: Ensure) -> Artefact:
    fraction = recipe.lexicon.heldout_fraction

    def build(folder: Path) -> dict[str, Any]:
        table = translations.folder / "translations.jsonl"
        entries = heldout_entries(table, fraction, words.facts["occurrences"])
        count = write_table(folder / "heldout.jsonl", entries)
        if count == 0:
            raise UserError(
                f"lexicon.heldout_fraction: found {fraction}, which holds out none of {translations.facts['entries']} "
                "words; expected a larger share, or 0"
            )
        return {"entries": count}

    inputs = {"words": words.fingerprint, "translations": translations.fingerprint, "fraction": fraction}
    return ensure("heldout_words", WAYPOINTS["heldout_words"], inputs, build)


def _table(
    recipe: Recipe,
    words: Artefact,
    translations: Artefact,
    heldout: Artefact | None,
    tokenizer: Tokenizer,
    ensure: Ensure,
) -> Artefact:
    names = [recipe.source_language, *recipe.targets]
    languages = recipe.languages
    inputs: dict[str, Any] = {
        "words": words.fingerprint,
        "translations": translations.fingerprint,
        "heldout": heldout.fingerprint if heldout is not None else None,
        "tokenizer": tokenizer.fingerprint,
        "languages": names,
        "space_prefix": {name: languages[name].space_prefix for name in names},
        "cased": {name: languages[name].cased for name in names},
        "clones": {
            name: recipe.token_offset(name)
            for name in recipe.targets
            if languages[name].clone_of == recipe.source_language
        },
    }

    def build(folder: Path) -> dict[str, Any]:
        kept_out = spellings(read_table(heldout.folder / "heldout.jsonl")) if heldout is not None else set()
        dropped = {name: Dropped() for name in recipe.targets}
        entries: Iterable[Entry] = read_table(translations.folder / "translations.jsonl")
        entries = training_entries(entries, kept_out, dropped)
        if write_table(folder / "lexicon.jsonl", entries) == 0:
            raise UserError(
                f"lexicon.heldout_fraction: found {recipe.lexicon.heldout_fraction}, which leaves no word in the "
                "table; expected a smaller share"
            )
        facts = compile_table(
            read_table(folder / "lexicon.jsonl"),
            tokenizer,
            names,
            inputs["space_prefix"],
            inputs["cased"],
            inputs["clones"],
            folder,
        )
        report = json.dumps(dropped_as_dict(dropped), indent=1, ensure_ascii=False)
        (folder / "heldout_pairs.json").write_text(report + "\n", encoding="utf-8")
        counted = {"source_words": words.facts["words"], "source_occurrences": words.facts["occurrences"]}
        return facts | {"languages": names} | counted

    return ensure("lexicon", "alignment table", inputs, build)


def _coverage(
    recipe: Recipe,
    stores: dict[str, Artefact],
    words: Artefact,
    translations: Artefact,
    lexicon: Artefact,
    tokenizer: Tokenizer,
    ensure: Ensure,
) -> Artefact:
    """The report; an artefact of its own, so that it changes nothing that training reads."""
    written = [name for name in recipe.targets if recipe.languages[name].clone_of is None]
    segmenters = {name: recipe.languages[name].segmenter for name in written}
    versions = {name: segmenter_version(used) for name, used in segmenters.items() if used != "none"}
    inputs: dict[str, Any] = {
        "words": words.fingerprint,
        "translations": translations.fingerprint,
        "lexicon": lexicon.fingerprint,
        "texts": {name: stores[name].fingerprint for name in written},
        "segmenters": versions,
        "version": COVERAGE_VERSION,
    }

    def build(folder: Path) -> dict[str, Any]:
        report = measure_coverage(
            read_counts(words.folder / "words.tsv"), read_table(lexicon.folder / "lexicon.jsonl"), recipe.targets
        )
        merged = json.loads((translations.folder / "report.json").read_text(encoding="utf-8"))
        heldout = json.loads((lexicon.folder / "heldout_pairs.json").read_text(encoding="utf-8"))
        add_dropped(report, merged["read"], [merged["dropped"], heldout])
        for name in written:
            if name in versions and versions[name] is None:
                report["languages"][name]["target_text"] = {"needs": segmenters[name]}
                continue
            table = read_table(lexicon.folder / "lexicon.jsonl")
            counts = _dev_text(stores[name], tokenizer, segmenters[name], folder)
            key = Cleaner(recipe.languages[name], max_words=1).key
            report["languages"][name]["target_text"] = measure_target_text(counts, table, name, key)
        (folder / "coverage.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return {}

    return ensure("coverage", WAYPOINTS["coverage"], inputs, build)


def _dev_text(store: Artefact, tokenizer: Tokenizer, segmenter: str, folder: Path) -> Iterable[tuple[str, int]]:
    """Words of a language's dev text with their occurrences."""
    text = TokenStore(store.folder / "dev")
    if segmenter == "none":
        scratch = folder / "scratch"
        scratch.mkdir()
        counts = count_words(text, WordMap(store.folder / "dev.words"), tokenizer, scratch)
        found = [(word, count) for word, count, _ in counts]
        shutil.rmtree(scratch)
        return found
    lengths = text.lengths[:]
    ends = np.cumsum(lengths, dtype=np.int64)
    documents = (tokenizer.decode(text.tokens[end - length : end - 1]) for end, length in zip(ends, lengths))
    return count_segmented(documents).items()
