"""Text -> everything training reads: tokenizer, stores, word counts, alignment table, code-switch map.

Folders under ``data.dir``: ``tokenizer``, one per language, those of the alignment table
(`prealign.preparation.alignment_table`), ``codeswitch``; for extra texts ``LANGUAGE.SOURCE`` and ``codeswitch.SOURCE``;
for clones at word level ``clone_words.LANGUAGE``; ``facts`` (`prealign.preparation.facts`). Each is an artefact
(`prealign.artefacts`): running this again rebuilds only what its inputs changed.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from prealign.artefacts import Artefact, InputHashes, ensure, open_artefact, refuse_strangers
from prealign.config import Recipe
from prealign.config.texts import TextConfig
from prealign.data.contents import (
    HELDOUT,
    SPLITS,
    WAYPOINTS,
    Split,
    check_end_of_document,
    codeswitch_folder,
    document_hash,
    has_lexicon,
    load_clone_words,
    split_of,
    switched_sources,
    text_settings,
)
from prealign.errors import UserError
from prealign.facts.relations import relations_of
from prealign.files import locked
from prealign.lexicon.compiled import CompiledLexicon
from prealign.lexicon.dictionaries import dictionary_files
from prealign.preparation.alignment_table import prepare_lexicon
from prealign.preparation.facts import prepare_facts
from prealign.preparation.given_tokenizer import given_inputs, given_tokenizer
from prealign.preparation.text_stores import Document, build_stores
from prealign.preparation.token_documents import (
    encoded_otherwise,
    read_token_documents,
    store_files,
    store_prefixes,
)
from prealign.preparation.word_counts import count_words
from prealign.processes import in_child
from prealign.stores.codeswitch_map import MAP_VERSION, build_codeswitch_map
from prealign.stores.sentences import sentence_marks
from prealign.stores.shards import find_shards
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.clone_tokenizer import CloneTokenizer
from prealign.text.clone_words import CloneWords
from prealign.text.extension import extended
from prealign.text.reading import ReadCounts, read_documents, text_files
from prealign.text.tokenizer import WORD_PATTERN, Tokenizer, train_tokenizer

Say = Callable[[str], None]

_UNSPACED_SHARE = 8
"""One part in so many of text without spaces trains the tokenizer."""

_FEW_SAMPLES = 10

_COMPARED = 100
"""Documents of a token store whose tokens are compared with the tokenizer's."""

_NAMED = 5
"""Files without documents that a note names."""

MOST_CLONE_WORDS = 1_000_000
"""Word types that a clone at word level exchanges, the most frequent ones; the table is held in memory."""


def prepare(recipe: Recipe, say: Say) -> None:
    """Build what is missing or out of date; ``say`` is called with one line per artefact. Raises `UserError`."""
    try:
        recipe.data.dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"data.dir: '{recipe.data.dir}' cannot be made ({error.strerror}); choose another folder"
        ) from None
    taken = f"{recipe.data.dir}: another preparation is writing here; wait for it or choose another data.dir"
    with locked(recipe.data.dir, taken):  # two of them would remove each other's work
        _Preparation(recipe, say).run()


class _Preparation:
    """One run of `prepare`; the methods stand in the order of their work."""

    def __init__(self, recipe: Recipe, say: Say) -> None:
        self.recipe = recipe
        self.data = recipe.data
        self.dir = recipe.data.dir
        self.say = say
        self.hashes = InputHashes(self.dir / ".input_hashes.json")
        self._texts: dict[str, TextConfig] = {}

    def run(self) -> None:
        self._refuse_early()
        inputs = {name: self._text_inputs(name) for name, lang in self.recipe.languages.items() if lang.text}
        tokenizer = self._tokenizer(inputs)
        stores: dict[str, Artefact] = {}
        clone_words: dict[str, Artefact] = {}
        for name in sorted(self.recipe.languages, key=lambda name: self.recipe.languages[name].clone_of is not None):
            language = self.recipe.languages[name]
            if language.clone_of is not None and language.clone_level == "word":
                clone_words[name] = self._clone_words(name, stores[language.clone_of], tokenizer)
            stores[name] = self._language(name, inputs, tokenizer, clone_words.get(name))
        for name in self.recipe.extra_texts:
            owner = name.partition(".")[0]
            stores[name] = self._source(name, stores[owner], tokenizer, clone_words.get(owner))
        words = lexicon = None
        if has_lexicon(self.recipe):
            lexicon = prepare_lexicon(self.recipe, stores, clone_words, tokenizer, self.hashes, self._ensure)
            for name in switched_sources(self.recipe):
                self._codeswitch(name, stores[name], lexicon, tokenizer)
            words = open_artefact(self.dir / "words", WAYPOINTS["words"])
        if self.recipe.facts is not None:
            levels = {name: load_clone_words(artefact) for name, artefact in clone_words.items()}
            every = CloneTokenizer(tokenizer, self.recipe.clones, levels)
            prepare_facts(self.recipe, stores, words, lexicon, every, clone_words, self.hashes, self._ensure)
        self.hashes.save()

    def _refuse_early(self) -> None:
        """Files that are not there, and facts that cannot be drawn: before hours of tokenizing, not after them. A
        dictionary in `data.dir` is one that ``launchers/translate.py`` makes of what is prepared until then."""
        for name in self.recipe.extra_texts:
            self._text(name)
        for name in [
            *self.recipe.languages,
            *self.recipe.extra_texts,
            "tokenizer",
            *WAYPOINTS,
            "lexicon",
            "codeswitch",
        ]:
            refuse_strangers(self.dir / name)
        for language in self.recipe.languages.values():
            for dictionary in language.dictionaries:
                if not Path(dictionary.path).resolve().is_relative_to(self.dir.resolve()):
                    dictionary_files(dictionary)
        if self.recipe.facts is not None:
            relations_of(self.recipe)

    def _met(self, name: str, counts: ReadCounts) -> dict[str, int]:
        """What the reader met, for the manifest; files without documents are named."""
        if counts.empty_files:
            more = len(counts.empty_files) - _NAMED
            names = ", ".join(counts.empty_files[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            self.say(f"note: {name}: passed over {len(counts.empty_files)} files without a document: {names}")
        if counts.missing_field:
            rows = counts.documents + counts.empty
            field = self._text(name)[0].field
            self.say(f"note: {name}: {counts.missing_field:,} of {rows:,} rows have no '{field}' and were passed over")
        if counts.invalid_utf8:
            self.say(
                f"note: {name}: {counts.invalid_utf8:,} byte sequences that are not UTF-8 were replaced by U+FFFD; "
                f"where they are many, the text is in another encoding"
            )
        return {
            "documents_read": counts.documents,
            "empty": counts.empty,
            "invalid_utf8": counts.invalid_utf8,
            "empty_files": len(counts.empty_files),
            "normalized": counts.normalized,
            "missing_field": counts.missing_field,
        }

    def _text_inputs(self, name: str) -> dict[str, Any]:
        """What the text of a source depends on."""
        text, _ = self._text(name)
        files = [Path(path) for path in text.files] or store_files(text.store)
        return text_settings(self.recipe, text) | {"sha256": self.hashes.of(files)}

    def _split(self, name: str) -> Split:
        return split_of(self.recipe, name)

    def _text(self, name: str) -> tuple[TextConfig, str]:
        """The text of a source, its patterns replaced by the files that match when it is first asked for, and its key
        in the recipe."""
        key = f"{self.recipe.source_key(name)}.text"
        if name not in self._texts:
            text = getattr(self.recipe.sources[name], "text", None)
            assert isinstance(text, TextConfig)
            if text.hub is None:
                kind, files = ("files", text_files(text, key)) if text.files else ("store", store_prefixes(text, key))
                inside = [path for path in files if path.resolve().is_relative_to(self.dir.resolve())]
                if inside:
                    raise UserError(
                        f"{key}.{kind}: found '{inside[0]}', which is in data.dir, '{self.dir}', where prepared data "
                        f"is written; choose another data.dir, or a pattern that leaves it out"
                    )
                text = text.model_copy(update={kind: [str(path) for path in files]})
            self._texts[name] = text
        return self._texts[name], key

    def _documents(self, name: str, counts: ReadCounts) -> Iterator[str]:
        text, key = self._text(name)
        return read_documents(text, key, self.data.invalid_utf8, counts)

    def _any_documents(self, name: str, tokenizer: Tokenizer, counts: ReadCounts) -> Iterator[Document]:
        """Documents of text or, where the source is a store, of tokens."""
        text, _ = self._text(name)
        return read_token_documents(text, tokenizer, counts) if text.store else self._documents(name, counts)

    def _say_otherwise(self, name: str, tokenizer: Tokenizer) -> None:
        """Whether the first documents of a store have the tokens that the tokenizer gives their text."""
        text, key = self._text(name)
        if not text.store:
            return
        first = list(islice(read_token_documents(text, tokenizer, ReadCounts()), _COMPARED))
        if other := encoded_otherwise(first, tokenizer):
            self.say(
                f"note: {key}.store: {other} of the first {len(first)} documents have other tokens than "
                f"data.tokenizer gives their text; where it is most of them, see that ranks and pattern are those that "
                f"the store was made with"
            )

    def _tokenizer(self, text_inputs: dict[str, Any]) -> Tokenizer:
        settings = self.data.tokenizer
        extension = settings.extension
        if settings.ranks is not None:
            inputs = given_inputs(settings, self.hashes)
            if extension is not None:
                texts = {name: text_inputs[name] for name in extension.languages}
                inputs["extension"] = {"tokens": extension.tokens, "texts": texts}
                unspaced = [name for name in texts if not self.recipe.languages[name].space_prefix]
                if unspaced:
                    inputs["extension"] |= {"unspaced": unspaced, "unspaced_share": _UNSPACED_SHARE}
                inputs |= {"heldout": self.data.heldout_fraction, "training_bytes": settings.training_bytes}
        else:
            if settings.pattern is not None:
                raise UserError(
                    "data.tokenizer.pattern: found without data.tokenizer.ranks; a trained tokenizer has its own"
                )
            inputs = {"texts": text_inputs, "heldout": self.data.heldout_fraction, "pattern": WORD_PATTERN}
            if any(language.text and not language.space_prefix for language in self.recipe.languages.values()):
                inputs["unspaced_share"] = _UNSPACED_SHARE
            inputs |= {"vocab_size": settings.vocab_size, "training_bytes": settings.training_bytes}

        def build(folder: Path) -> dict[str, Any]:
            # memory of training must not stay with this process and those that are forked from it
            if settings.ranks is None:
                text = self._training_text([*self.recipe.languages])
                tokenizer = in_child(lambda: train_tokenizer(text, settings.vocab_size))
            else:
                tokenizer = given_tokenizer(settings)
                self._check_size(tokenizer.vocab_size)
                if extension is not None:
                    text, given = self._training_text(extension.languages), tokenizer
                    tokenizer = in_child(lambda: extended(given, text, extension.tokens))
            tokenizer.save(folder)
            return {"vocab_size": tokenizer.vocab_size, "pattern": tokenizer.pattern, "sha256": tokenizer.fingerprint}

        artefact = self._ensure("tokenizer", "tokenizer", inputs, build)
        self._check_size(artefact.facts["vocab_size"] - settings.vocab_size + settings.given_size)
        check_end_of_document(self.recipe, artefact.folder)
        return Tokenizer.load(artefact.folder)

    def _check_size(self, found: int) -> None:
        """``found``: tokens of the given tokenizer, its special ones included."""
        settings = self.data.tokenizer
        if found != settings.given_size:
            more = f", and {settings.extension.tokens} come beside them" if settings.extension is not None else ""
            raise UserError(
                f"data.tokenizer.vocab_size: found {settings.vocab_size}; '{settings.ranks}' has {found} with "
                f"end-of-document{more}; set vocab_size to {settings.vocab_size - settings.given_size + found}"
            )

    def _training_text(self, names: list[str]) -> Iterator[str]:
        """Up to `training_bytes` of training documents of each language that has text."""
        for name in names:
            language = self.recipe.languages[name]
            if language.text is None:
                continue
            documents = self._training_documents(name)
            yield from documents if language.space_prefix else _as_if_more(documents)

    def _training_documents(self, name: str) -> Iterator[str]:
        budget = self.data.tokenizer.training_bytes
        counts = ReadCounts()
        for document in self._documents(name, counts):
            if budget <= 0:
                break
            if self._split(name).role_of(document) not in HELDOUT:
                budget -= len(document.encode())
                yield document
        _expect_documents(f"languages.{name}", counts)

    def _clone_words(self, name: str, original: Artefact, tokenizer: Tokenizer) -> Artefact:
        """The bijection of a clone at word level, over the words of the original's training text."""
        seed = self.recipe.languages[name].clone_seed
        inputs = {"store": original.fingerprint, "tokenizer": tokenizer.fingerprint, "seed": seed}

        def build(folder: Path) -> dict[str, Any]:
            words = WordMap(original.folder / "train.words")
            scratch = folder / "scratch"
            scratch.mkdir()
            counts = count_words(TokenStore(original.folder / "train"), words, tokenizer, scratch)
            most = ((word, case) for word, _, case in islice(counts, MOST_CLONE_WORDS))
            drawn = CloneWords.draw(most, tokenizer, seed)
            shutil.rmtree(scratch)
            drawn.save(folder / "words.tsv")
            return {"words": len(drawn.table), "unchanged": sum(a == b for a, b in drawn.table.items())}

        return self._ensure(f"clone_words.{name}", "clone words", inputs, build)

    def _language(
        self, name: str, text_inputs: dict[str, Any], tokenizer: Tokenizer, words: Artefact | None
    ) -> Artefact:
        language = self.recipe.languages[name]
        origin = language.clone_of or name
        split = self._split(origin)
        role: str | int = "train"
        if language.clone_of:
            role = [clone for clone, lang in self.recipe.languages.items() if lang.clone_of == origin].index(name)
        inputs = {
            "text": text_inputs[origin],
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": self.recipe.vocab_size,
            "shift": self.recipe.token_offset(name),
            "split": asdict(split) | {"role": role},
        } | self._store_inputs(words)

        def build(folder: Path) -> dict[str, Any]:
            counts = ReadCounts()
            if origin == name:
                self._say_otherwise(name, tokenizer)
            wanted = {role: "train"} | {part: part for part in HELDOUT}
            facts = build_stores(
                self._any_documents(origin, tokenizer, counts),
                folder,
                tokenizer,
                self.recipe.vocab_size,
                self.recipe.token_offset(name),
                lambda digest: wanted.get(split.role(digest)),
                load_clone_words(words).to_clone if words else None,
                self.data.shard_tokens,
            )
            _expect_documents(f"languages.{origin}", counts)
            if facts["train_tokens"] == 0:
                raise UserError(
                    f"languages.{name}: none of {counts.documents} documents went to the train split; give more text "
                    f"or change languages.{name}.clone_share"
                )
            return facts | self._met(origin, counts)

        store = self._ensure(name, "token store", inputs, build, resumable=True)
        self._say_unmatched(name, store)
        heldout = min(store.facts[f"{part}_tokens"] for part in HELDOUT)
        if heldout < _FEW_SAMPLES * self.recipe.model.context:
            self.say(
                f"note: languages.{name}: {heldout:,} tokens of dev or test, less than {_FEW_SAMPLES} samples, are "
                f"few to measure on; a data.heldout_fraction above {self.data.heldout_fraction:g} gives more"
            )
        return store

    def _source(self, name: str, own: Artefact, tokenizer: Tokenizer, words: Artefact | None) -> Artefact:
        """The store of an extra text, all of it for training but for documents that the language's ``own`` text holds
        out."""
        shift = self.recipe.token_offset(name.partition(".")[0])
        inputs = {
            "text": self._text_inputs(name),
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": self.recipe.vocab_size,
            "shift": shift,
            "heldout": own.fingerprint,
        } | self._store_inputs(words)

        def build(folder: Path) -> dict[str, Any]:
            counts = ReadCounts()
            self._say_otherwise(name, tokenizer)
            heldout = _heldout_documents(own, tokenizer, shift, load_clone_words(words) if words else None)
            facts = build_stores(
                self._any_documents(name, tokenizer, counts),
                folder,
                tokenizer,
                self.recipe.vocab_size,
                shift,
                lambda digest: None if digest in heldout else "train",
                load_clone_words(words).to_clone if words else None,
                self.data.shard_tokens,
            )
            _expect_documents(self.recipe.source_key(name), counts)
            return facts | self._met(name, counts)

        return self._ensure(name, "token store", inputs, build, resumable=True)

    def _say_unmatched(self, name: str, store: Artefact) -> None:
        """Words that a foreign pre-tokenizer joins with what stands beside them."""
        joined = store.facts["words_without_token_boundary"]
        words = joined + sum(store.facts[f"{split}_words"] for split in SPLITS)
        if joined:
            self.say(
                f"note: languages.{name}: {joined:,} of {words:,} words ({100 * joined / words:.2g} %) have no token "
                f"boundary at both edges with this pattern; they are neither aligned nor switched"
            )

    def _store_inputs(self, words: Artefact | None) -> dict[str, Any]:
        """What a store depends on beside its text: the splits, and what only some recipes have."""
        shards = {"shard_tokens": self.data.shard_tokens} if self.data.shard_tokens is not None else {}
        return {"splits": list(SPLITS)} | shards | ({"clone_words": words.fingerprint} if words else {})

    def _codeswitch(self, name: str, store: Artefact, lexicon: Artefact, tokenizer: Tokenizer) -> None:
        inputs = {"store": store.fingerprint, "lexicon": lexicon.fingerprint, "version": MAP_VERSION}

        def build(folder: Path) -> dict[str, Any]:
            table = CompiledLexicon.load(lexicon.folder, lexicon.facts["languages"])
            marks = sentence_marks(tokenizer)
            facts: Counter[str] = Counter()
            for index in find_shards(store.folder / "train", ".idx"):
                shard, words = TokenStore(index.with_suffix("")), WordMap(index.with_suffix(".words"))
                facts.update(build_codeswitch_map(folder / f"{index.stem}.cs", shard, words, table, marks))
            return dict(facts)

        self._ensure(codeswitch_folder(name), "code-switch map", inputs, build)

    def _ensure(
        self,
        name: str,
        kind: str,
        inputs: dict[str, Any],
        build: Callable[[Path], dict[str, Any]],
        resumable: bool = False,
    ) -> Artefact:
        try:
            artefact, built = ensure(self.dir / name, kind, inputs, build, resumable)
        except OSError as error:
            raise UserError(
                f"{self.dir / name}: cannot be written ({error.strerror or error}); free space or mend rights"
            ) from None
        except BrokenProcessPool:
            raise UserError(
                f"{self.dir / name}: a process that makes it was killed, maybe for want of memory; free memory or use "
                "fewer cores (taskset), and run this again"
            ) from None
        facts = ", ".join(f"{key} {value}" for key, value in artefact.facts.items() if isinstance(value, int))
        self.say(f"{'built ' if built else 'kept  '} {artefact.folder} ({kind}): {facts}")
        return artefact


def _as_if_more(documents: Iterator[str]) -> Iterator[str]:
    """About an eighth of text without spaces, so many times that it weighs as much as the whole.

    What a tokenizer is trained on are the pieces between spaces. Where there are none, pieces hardly ever repeat, and
    training takes 100 MB of memory a megabyte of text.
    """
    taken: list[str] = []
    size = kept = 0
    for document in documents:
        if size >= _UNSPACED_SHARE * kept:
            taken.append(document)
            kept += len(document)
        size += len(document)
    for _ in range(round(size / max(kept, 1))):
        yield from taken


def _heldout_documents(store: Artefact, tokenizer: Tokenizer, shift: int, words: CloneWords | None) -> set[bytes]:
    """Hashes of the documents that a language holds out."""
    found = set()
    for split in HELDOUT:
        text = TokenStore(store.folder / split)
        begin = 0
        for length in text.lengths[:].tolist():
            document = tokenizer.marked_text(text.tokens[begin : begin + length - 1].astype(np.int64) - shift)
            found.add(document_hash(words.to_original(document.decode()) if words is not None else document))
            begin += length
    return found


def _expect_documents(key: str, counts: ReadCounts) -> None:
    if counts.documents == 0:
        raise UserError(f"{key}.text: found no document with text in it; expected at least one")
