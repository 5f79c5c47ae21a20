"""Prepared data, opened for a run: streams to train on, held-out stores, the lexicon; checked against the recipe."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prealign.artefacts import Artefact, open_artefact
from prealign.config import Recipe
from prealign.config.facts import facts_period
from prealign.config.stage import Stage
from prealign.config.texts import TextConfig
from prealign.data.contents import (
    FACTS_KIND,
    SPLITS,
    WAYPOINTS,
    check_end_of_document,
    codeswitch_folder,
    facts_settings,
    has_lexicon,
    load_clone_words,
    period_folder,
    split_of,
    switched_sources,
    text_settings,
    translation_settings,
)
from prealign.data.sequences import Switching, TokenStream
from prealign.data.switching import Switcher
from prealign.errors import UserError
from prealign.files import digest
from prealign.lexicon.compiled import CompiledLexicon
from prealign.random_streams import Draw, mix
from prealign.stores.codeswitch_map import CodeSwitchMap
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.clone_tokenizer import CloneTokenizer
from prealign.text.tokenizer import Tokenizer

FACTS = "facts"


@dataclass(frozen=True)
class PreparedData:
    """The artefacts under ``data.dir``, opened at constant cost. Make one with `open_data`."""

    recipe: Recipe
    artefacts: dict[str, Artefact]
    split: str = "dev"
    """Held-out text that is measured on: ``dev`` while training and for choices, ``test`` for results."""

    @property
    def fingerprint(self) -> str:
        """One hash over all artefacts that a run reads."""
        return self._fingerprint(extra_texts=True)

    def fingerprint_of(self, stage: Stage) -> str:
        """One hash over all artefacts that a stage reads."""
        return self._fingerprint(stage.extra_texts)

    def check_trained_on(self, stage: Stage, origin: Path, trained: str) -> None:
        """Raise `UserError` unless weights of a stage were trained on this data, or `checkpoint.allow_changed_data` is
        set. ``origin``: where they are; ``trained``: fingerprint of the data that they know."""
        there = self.fingerprint_of(stage)
        if there != trained and not self.recipe.checkpoint.allow_changed_data:
            raise UserError(
                f"{origin}: trained on data {trained[:12]}...; {self.recipe.data.dir} holds {there[:12]}...; give the "
                f"data that it was trained on (data.dir=...), choose another run_dir, or set "
                f"checkpoint.allow_changed_data=true"
            )

    def _fingerprint(self, extra_texts: bool) -> str:
        skipped: set[str] = set()
        if not extra_texts:
            extra = self.recipe.extra_texts
            skipped = {FACTS, *extra, *(codeswitch_folder(name) for name in extra)}
        kept = {name: artefact.fingerprint for name, artefact in self.artefacts.items() if name not in skipped}
        return digest(kept)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artefacts["tokenizer"].folder)

    @cached_property
    def clone_tokenizer(self) -> CloneTokenizer:
        """The tokenizer with the blocks of all clone languages."""
        words = {name: self.artefacts.get(f"clone_words.{name}") for name in self.recipe.clones}
        levels = {name: load_clone_words(artefact) for name, artefact in words.items() if artefact}
        return CloneTokenizer(self.tokenizer, self.recipe.clones, levels)

    @cached_property
    def whole_lexicon(self) -> CompiledLexicon | None:
        """The alignment table as prepared; None without translations."""
        if "lexicon" not in self.artefacts:
            return None
        artefact = self.artefacts["lexicon"]
        return CompiledLexicon.load(artefact.folder, artefact.facts["languages"])

    @cached_property
    def lexicon(self) -> CompiledLexicon | None:
        """The alignment table as the recipe aligns with it (top fraction, control permutation)."""
        return self._restricted(permuted=self.recipe.lexicon.permute != "none")

    @cached_property
    def switching_lexicon(self) -> CompiledLexicon | None:
        """The alignment table as the recipe code-switches with it."""
        return self._restricted(permuted=self.recipe.lexicon.permute == "both")

    def _restricted(self, permuted: bool) -> CompiledLexicon | None:
        table = self.whole_lexicon
        if table is None:
            return None
        seed = int(mix(self.recipe.seed, Draw.PERMUTED_TABLE)) if permuted else None
        return table.restrict(self.recipe.lexicon.top_fraction, seed)

    def heldout(self, language: str) -> TokenStore:
        """The held-out store of a language (of `split`)."""
        return TokenStore(self.artefacts[language].folder / self.split)

    def streams(self, code_switch: bool) -> list[TokenStream]:
        """Training streams in the order of `Recipe.sources`; with ``code_switch`` text in the source language is
        switched."""
        recipe = self.recipe
        switched = switched_sources(recipe) if code_switch and recipe.codeswitch.ratio > 0 else []
        streams = []
        for number, name in enumerate(recipe.sources):
            folder = self._folder(name)
            store = TokenStore(folder / "train")
            every_token = name not in recipe.languages
            period = facts_period(name)
            if name in switched or (switched and period is not None and name.startswith(f"{switched[0]}.")):
                lexicon = self.switching_lexicon
                if lexicon is None:
                    raise UserError(
                        f"codeswitch.ratio: found {recipe.codeswitch.ratio} without translations; expected "
                        f"dictionaries "
                        "or a clone among languages, or codeswitch.ratio=0"
                    )
                words = WordMap(folder / "train.words")
                maps = folder if period is not None else self.artefacts[codeswitch_folder(name)].folder
                values = CodeSwitchMap(maps / "train.cs", words.words)
                seed = mix(recipe.seed, Draw.SWITCHING)
                switcher = Switcher(
                    lexicon,
                    recipe.codeswitch.ratio,
                    recipe.codeswitch.mode == "vanilla",
                    int(mix(seed, number) if every_token else seed),
                )
                switching = Switching(words, values, switcher)
            else:
                switching = None
            streams.append(TokenStream(store, recipe.model.context, switching, every_token))
        return streams

    def _folder(self, source: str) -> Path:
        """Where the store of a source is."""
        period = facts_period(source)
        if period is None:
            return self.artefacts[source].folder
        return self.artefacts[FACTS].folder / period_folder(source.partition(".")[0], period)

    def heldout_bytes(self, language: str, tokens: np.ndarray) -> int:
        """UTF-8 bytes of text behind token ids of a language."""
        ids = tokens.astype(np.int64) - self.recipe.token_offset(language)
        return int(self.tokenizer.token_lengths[ids].sum())

    def verify(self) -> None:
        """Hash every file of every artefact; raises `UserError` for the first damaged one."""
        for artefact in self.artefacts.values():
            artefact.verify()


def open_data(recipe: Recipe, split: str = "dev") -> PreparedData:
    """Open what `prealign.preparation.pipeline.prepare` wrote and check that it belongs to the recipe. ``split``:
    the held-out text to measure on, ``dev`` or ``test``. Raises `UserError`."""
    folder = recipe.data.dir
    artefacts = {"tokenizer": open_artefact(folder / "tokenizer", "tokenizer")}
    found = artefacts["tokenizer"].facts["vocab_size"]
    if found != recipe.data.tokenizer.vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size: found {recipe.data.tokenizer.vocab_size}; {folder / 'tokenizer'} holds "
            f"{found} "
            "tokens; set the key to that, or run launchers/prepare.py with this recipe"
        )
    check_end_of_document(recipe, folder / "tokenizer")
    for name, language in recipe.languages.items():
        if language.clone_level == "word":
            artefacts[f"clone_words.{name}"] = open_artefact(folder / f"clone_words.{name}", "clone words")
    for name in [*recipe.languages, *recipe.extra_texts]:
        artefacts[name] = _open_store(recipe, name, artefacts)
    if has_lexicon(recipe):
        _check_translations(recipe)
        artefacts["lexicon"] = open_artefact(folder / "lexicon", "alignment table")
        if recipe.lexicon.heldout_fraction > 0:
            artefacts["heldout_words"] = open_artefact(folder / "heldout_words", "held-out words")
        wanted = [recipe.source_language, *recipe.targets]
        _expect(artefacts["lexicon"], "languages", artefacts["lexicon"].facts["languages"], wanted)
        for name in switched_sources(recipe):
            key = codeswitch_folder(name)
            artefacts[key] = open_artefact(folder / key, "code-switch map")
            for part, of in (("store", artefacts[name]), ("lexicon", artefacts["lexicon"])):
                _expect(artefacts[key], part, artefacts[key].inputs[part], of.fingerprint)
    if recipe.facts is not None:
        artefacts[FACTS] = _open_facts(recipe, artefacts)
    return PreparedData(recipe, artefacts, split)


def _open_facts(recipe: Recipe, artefacts: dict[str, Artefact]) -> Artefact:
    artefact = open_artefact(recipe.data.dir / FACTS, FACTS_KIND)
    for key, wanted in facts_settings(recipe).items():
        _expect(artefact, key, artefact.inputs["settings"].get(key), wanted)
    _expect(artefact, "tokenizer", artefact.inputs["tokenizer"], artefacts["tokenizer"].facts["sha256"])
    offsets = {name: recipe.token_offset(name) for name in recipe.languages}
    _expect(artefact, "languages", artefact.inputs["languages"], offsets)
    for name in recipe.facts_languages:
        _expect(artefact, f"store of '{name}'", artefact.inputs["stores"][name], artefacts[name].fingerprint)
    if "lexicon" in artefacts:
        _expect(artefact, "lexicon", artefact.inputs["lexicon"], artefacts["lexicon"].fingerprint)
    return artefact


def _open_store(recipe: Recipe, name: str, artefacts: dict[str, Artefact]) -> Artefact:
    artefact = open_artefact(recipe.data.dir / name, "token store")
    language = name.partition(".")[0]
    words = artefacts.get(f"clone_words.{language}")
    _expect(artefact, "tokenizer", artefact.inputs["tokenizer"], artefacts["tokenizer"].facts["sha256"])
    _expect(artefact, "vocab_size", artefact.inputs["vocab_size"], recipe.vocab_size)
    _expect(artefact, "shift", artefact.inputs["shift"], recipe.token_offset(language))
    _expect(artefact, "clone words", artefact.inputs.get("clone_words"), words.fingerprint if words else None)
    _expect(artefact, "splits", artefact.inputs.get("splits"), list(SPLITS))
    _check_text(recipe, name, artefact)
    tokens = artefact.facts["train_tokens"]
    if name in recipe.languages and tokens < recipe.model.context:
        raise UserError(
            f"languages.{name}: found {tokens} training tokens; expected at least "
            f"model.context={recipe.model.context}; "
            "give more text"
        )
    return artefact


def _check_text(recipe: Recipe, name: str, artefact: Artefact) -> None:
    """A store is of the text that the recipe describes; what its files hold is not looked at."""
    origin = recipe.languages[name].clone_of or name if name in recipe.languages else name
    text = getattr(recipe.sources[origin], "text", None)
    assert isinstance(text, TextConfig)
    settings = text_settings(recipe, text)
    for key in (*settings, "store"):
        _expect(artefact, key, artefact.inputs["text"].get(key), settings.get(key))
    if name in recipe.languages:
        wanted = json.loads(json.dumps(asdict(split_of(recipe, origin))))
        found = {key: artefact.inputs["split"].get(key) for key in wanted}
        _expect(artefact, "shares held out, and for clones", list(found.values()), list(wanted.values()))


def _check_translations(recipe: Recipe) -> None:
    """The same for the alignment table; what it was made from may be gone."""
    folder = recipe.data.dir / "translations"
    if not folder.exists():
        return
    artefact = open_artefact(folder, WAYPOINTS["translations"])
    for key, wanted in json.loads(json.dumps(translation_settings(recipe))).items():
        found: Any = artefact.inputs.get(key)
        if key == "dictionaries":
            found = [{name: value for name, value in settings.items() if name != "sha256"} for settings in found]
        if key == "facts":  # one language of them
            for language in wanted:
                _expect(artefact, f"traits of '{language}'", found.get(language), wanted[language])
        else:
            _expect(artefact, key, found, wanted)


def _expect(artefact: Artefact, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise UserError(
            f"{artefact.folder}: made with {what} {found}; the recipe and its other data have {expected}; "
            "run launchers/prepare.py with this recipe"
        )
