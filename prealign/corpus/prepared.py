"""Prepared data, opened for a run: streams to train on, held-out stores, the lexicon; checked against the recipe."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prealign.config import Recipe
from prealign.corpus.artefact import Artefact, digest, open_artefact
from prealign.corpus.codeswitch_map import CodeSwitchMap
from prealign.corpus.preparing import has_lexicon
from prealign.corpus.sequences import TokenStream
from prealign.corpus.store import TokenStore
from prealign.corpus.switching import Switcher
from prealign.corpus.wordmap import WordMap
from prealign.errors import UserError
from prealign.hashing import Draw, mix
from prealign.lexicon.compiled import CompiledLexicon
from prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PreparedData:
    """The artefacts under ``data.dir``, opened at constant cost. Make one with `open_data`."""

    recipe: Recipe
    artefacts: dict[str, Artefact]

    @property
    def fingerprint(self) -> str:
        """One hash over all artefacts that a run reads."""
        return digest({name: artefact.fingerprint for name, artefact in self.artefacts.items()})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artefacts["tokenizer"].folder)

    @cached_property
    def whole_lexicon(self) -> CompiledLexicon | None:
        """The alignment table as prepared; None without translations."""
        if "lexicon" not in self.artefacts:
            return None
        artefact = self.artefacts["lexicon"]
        return CompiledLexicon.load(artefact.folder, artefact.facts["languages"])

    @cached_property
    def lexicon(self) -> CompiledLexicon | None:
        """The alignment table as the recipe trains on it (top fraction, control permutation)."""
        table = self.whole_lexicon
        if table is None:
            return None
        settings = self.recipe.lexicon
        seed = int(mix(self.recipe.seed, Draw.PERMUTED_TABLE)) if settings.permute else None
        return table.restrict(settings.top_fraction, seed)

    def heldout(self, language: str) -> TokenStore:
        """The held-out store of a language."""
        return TokenStore(self.artefacts[language].folder / "heldout")

    def streams(self, code_switch: bool) -> list[TokenStream]:
        """Training streams in recipe order; with ``code_switch`` the source language's text is switched."""
        recipe = self.recipe
        streams = []
        for name in recipe.languages:
            folder = self.artefacts[name].folder
            store = TokenStore(folder / "train")
            if code_switch and recipe.codeswitch.ratio > 0 and name == recipe.source_language:
                lexicon = self.lexicon
                if lexicon is None:
                    raise UserError(
                        f"codeswitch.ratio: found {recipe.codeswitch.ratio} without translations; expected "
                        f"dictionaries "
                        "or a clone among languages, or codeswitch.ratio=0"
                    )
                words = WordMap(folder / "train.words")
                forms = CodeSwitchMap(self.artefacts["codeswitch"].folder / "train.cs", words.words)
                switcher = Switcher(
                    lexicon,
                    recipe.codeswitch.ratio,
                    recipe.codeswitch.mode == "vanilla",
                    int(mix(recipe.seed, Draw.SWITCHING)),
                )
                streams.append(TokenStream(store, recipe.model.context, words, forms, switcher))
            else:
                streams.append(TokenStream(store, recipe.model.context))
        return streams

    def heldout_bytes(self, language: str, tokens: np.ndarray) -> int:
        """UTF-8 bytes of text behind token ids of a language."""
        ids = tokens.astype(np.int64) - self.recipe.token_offset(language)
        return int(self.tokenizer.token_lengths[ids].sum())

    def verify(self) -> None:
        """Hash every file of every artefact; raises `UserError` for the first damaged one."""
        for artefact in self.artefacts.values():
            artefact.verify()


def open_data(recipe: Recipe) -> PreparedData:
    """Open what `prealign.corpus.preparing.prepare` wrote and check that it belongs to the recipe. Raises
    `UserError`."""
    folder = recipe.data.dir
    artefacts = {"tokenizer": open_artefact(folder / "tokenizer", "tokenizer")}
    found = artefacts["tokenizer"].facts["vocab_size"]
    if found != recipe.data.tokenizer.vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size: found {recipe.data.tokenizer.vocab_size}; {folder / 'tokenizer'} holds "
            f"{found} "
            "tokens; set the key to that, or run launchers/prepare.py with this recipe"
        )
    for name in recipe.languages:
        artefacts[name] = _open_store(recipe, name, artefacts["tokenizer"].facts)
    if has_lexicon(recipe):
        artefacts["lexicon"] = open_artefact(folder / "lexicon", "alignment table")
        if recipe.lexicon.heldout_fraction > 0:
            artefacts["heldout_words"] = open_artefact(folder / "heldout_words", "held-out words")
        artefacts["codeswitch"] = open_artefact(folder / "codeswitch", "code-switch map")
        wanted = [recipe.source_language, *recipe.targets]
        _expect(artefacts["lexicon"], "languages", artefacts["lexicon"].facts["languages"], wanted)
        for part in ("store", "lexicon"):
            of = artefacts[recipe.source_language if part == "store" else "lexicon"]
            _expect(artefacts["codeswitch"], part, artefacts["codeswitch"].inputs[part], of.fingerprint)
    return PreparedData(recipe, artefacts)


def _open_store(recipe: Recipe, name: str, tokenizer: dict[str, Any]) -> Artefact:
    artefact = open_artefact(recipe.data.dir / name, "token store")
    _expect(artefact, "tokenizer", artefact.inputs["tokenizer"], tokenizer["sha256"])
    _expect(artefact, "vocab_size", artefact.inputs["vocab_size"], recipe.vocab_size)
    _expect(artefact, "shift", artefact.inputs["shift"], recipe.token_offset(name))
    tokens = artefact.facts["train_tokens"]
    if tokens < recipe.model.context:
        raise UserError(
            f"languages.{name}: found {tokens} training tokens; expected at least "
            f"model.context={recipe.model.context}; "
            "give more text"
        )
    return artefact


def _expect(artefact: Artefact, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise UserError(
            f"{artefact.folder}: made with {what} {found}; the recipe and its other data have {expected}; "
            "run launchers/prepare.py with this recipe"
        )
