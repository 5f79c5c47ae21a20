"""Sections of the recipe about text: where it comes from, how much of it is read, what is known of its language."""

from typing import Annotated, Any, Literal

import regex
from pydantic import BeforeValidator, Field, field_validator, model_validator

from prealign.config.paths import ExpandedText
from prealign.config.sections import Count, Fraction, Section


def _prefix_is_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class TextConfig(Section):
    """Where the documents of one language come from: local files, a dataset of the Hugging Face hub, or token stores
    that Megatron or GPT-NeoX wrote."""

    files: list[ExpandedText] = []
    """Paths or glob patterns, read in sorted order; relative to the working directory (``configs/...`` is also found
    in the installed package). The name of an existing file is not a pattern."""
    hub: str | None = None
    """Dataset id on the hub, streamed; `hub_name`, `hub_split` and `hub_revision` go to `datasets.load_dataset`."""
    hub_name: str | None = None
    """Configuration of the dataset, often a language."""
    hub_split: str = "train"
    """Its split."""
    hub_revision: str | None = None
    """Its commit, tag or branch."""
    store: Annotated[list[ExpandedText], BeforeValidator(_prefix_is_list)] = []
    """Prefixes of Megatron's indexed datasets (``PREFIX.bin``, ``PREFIX.idx``), or patterns of such; one may stand
    without a list. Their tokens are taken as they are, so `data.tokenizer.ranks` must be the tokenizer that they were
    made with; of the keys below `max_documents` alone applies."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """`auto` goes by the file name: .jsonl/.json, .parquet, .txt (compressed or not)."""
    field: str = "text"
    """The column or JSON key that holds the document, the only one that is read; ``meta.text`` is also ``text`` inside
    ``meta``."""
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What ends a document in a text file."""
    normalize: Literal["none", "nfc", "nfkc"] = "nfc"
    """Unicode normalisation. Dictionaries are composed (NFKC), so words of decomposed text (NFD, as macOS and much
    Vietnamese text have it) would not be found in them. `nfkc` also replaces presentation forms (Arabic), compatibility
    letters (Korean) and full-width ones, and changes signs such as ² and …"""
    max_documents: Count | None = None
    """Stop after this many documents (before de-duplication)."""

    @model_validator(mode="after")
    def _one_source(self) -> "TextConfig":
        given = [name for name in ("files", "hub", "store") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"found {' and '.join(repr(name) for name in given) or 'none'} of 'files', 'hub' and 'store'; expected "
                f"exactly one of them"
            )
        idle = self.model_fields_set - {"files", "hub", "store", "max_documents"}
        if self.store and (changed := [key for key in sorted(idle) if getattr(self, key) != _default(key)]):
            raise ValueError(f"found '{changed[0]}' beside 'store', whose tokens are taken as they are; leave it out")
        return self


def _default(key: str) -> Any:
    return TextConfig.model_fields[key].default


class DictionaryConfig(Section):
    """A file of translations from the source language; in a list of them a bare path stands for ``{path: ...}``."""

    path: ExpandedText
    """dictd and StarDict dictionaries are named by their `.index` and their `.ifo`."""
    format: Literal[
        "auto", "muse", "tsv", "dictd", "stardict", "tei", "ding", "cedict", "wiktextract", "json", "jsonl"
    ] = "auto"
    """`auto` goes by the file name, then by the first lines. `json` and `jsonl`: word -> translations, or word ->
    language -> translations."""
    inverted: bool | None = None
    """The file goes from the target language to the source; by default Ding and CC-CEDICT files do, others do not."""
    codes: list[str] = []
    """What a file of several languages calls this one; `languages.*.codes` by default."""
    traditional: bool = False
    """Take the traditional characters of CC-CEDICT in place of the simplified ones."""


def _path_is_dictionary(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class ShareConfig(Section):
    """How much of the run a text gets: by ``tokens`` or by ``weight``, one of the two."""

    tokens: Annotated[int, Field(ge=0, le=10**16)] | None = None
    """Training tokens of text over the whole run, align stage included. More than the text has: several
    epochs, each in an order of its own."""
    weight: Annotated[float, Field(ge=0.0)] | None = None
    """Share, relative to the other weights, of what is left of `mixture.tokens`; `mixture.phases` can change it."""
    active: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)] | None] | None = None
    """``[from_step, to_step]``: take part in these steps of the pretrain stage only, ``to_step`` not included (null: to
    the end). `tokens` are spread evenly over them. The align stage then reads nothing of this text."""

    @model_validator(mode="after")
    def _one_share(self) -> "ShareConfig":
        if (self.tokens is None) == (self.weight is None):
            raise ValueError("found both or neither of 'tokens' and 'weight'; expected exactly one of them")
        if self.active is not None and self.active[1] is not None and self.active[0] >= self.active[1]:
            raise ValueError(f"active: found {list(self.active)}; expected from_step < to_step")
        return self


class SourceConfig(ShareConfig):
    """Text beside a language's own: read in the pretrain stage only, never held out, not part of the tokenizer's
    training text nor of the word counts. In a clone's source the text is given in the original's words.

    Every token is read once an epoch: the last window is filled up from the beginning. Repeated documents are dropped;
    what shall be read f times has f times its tokens as budget.
    """

    text: TextConfig
    """Where its documents come from."""


class LanguageConfig(ShareConfig):
    """One language of the mixture. What is known of a language by its name (`prealign.config.languages`) fills the
    traits from `scripts` on; a recipe changes them, or gives them for a language that is not listed there."""

    text: TextConfig | None = None
    """Where its documents come from; a clone has none."""
    sources: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], SourceConfig] = {}
    """Extra texts by name, with budgets of their own; `mixture.phases` and the token account call them
    ``LANGUAGE.NAME``."""
    clone_of: str | None = None
    """Make this language a clone: documents of that language, with token ids shifted by the vocabulary size."""
    clone_share: Fraction = 0.01
    """Share of the original's training documents that become clone text (and leave the original's text)."""
    clone_level: Literal["token", "word"] = "token"
    """`token`: a clone's tokens are the original's, shifted. `word`: each word type first becomes another one of its
    length, by a seeded bijection (`prealign.text.clone_words`); then the tokens of that word are shifted."""
    clone_seed: int = 0
    """Which bijection, at level `word`."""
    dictionaries: list[Annotated[DictionaryConfig, BeforeValidator(_path_is_dictionary)]] = []
    """Translations from the source language, merged; pairs that more of them give come first."""
    scripts: list[str] = []
    """Unicode scripts that its words are written in; none: any."""
    space_prefix: bool = True
    """Words are written with a space before them (false for Chinese): how a lone word is tokenised."""
    cased: bool = True
    """Its script has upper and lower case that a word at a sentence start takes."""
    word_length: tuple[Count, Count] = (1, 40)
    """Fewest and most characters of a translation."""
    leading_words: list[str] = []
    """Words that dictionaries put before an entry and that are no part of it ("to go", "der Hund")."""
    fragments: list[str] = []
    """What an apostrophe leaves of words of the source language ("don't" is "don" and "t"): no dictionary's entry for
    one of these is taken."""
    optional_marks: str = ""
    """Characters that dictionaries add and running text leaves out: Russian stress, Arabic vowel signs."""
    segmenter: Literal["none", "jieba"] = "none"
    """What finds words in text that is written without spaces."""
    codes: list[str] = []
    """What dictionaries of several languages call it; its name in the recipe by default."""

    @field_validator("scripts")
    @classmethod
    def _scripts_exist(cls, scripts: list[str]) -> list[str]:
        for script in scripts:
            try:
                regex.compile(rf"\p{{Script={script}}}")
            except regex.error:
                raise ValueError(f"found '{script}'; expected names of Unicode scripts, as Latin or Cyrillic") from None
        return scripts

    @model_validator(mode="after")
    def _one_origin(self) -> "LanguageConfig":
        if (self.text is None) == (self.clone_of is None):
            raise ValueError("found both or neither of 'text' and 'clone_of'; expected exactly one of them")
        if self.clone_level == "word" and self.clone_of is None:
            raise ValueError("clone_level: found 'word' without 'clone_of'; expected a clone language")
        return self
