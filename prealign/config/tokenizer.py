"""The section of the recipe about the tokenizer: trained, given, or given and extended."""

from typing import Annotated

from pydantic import Field, model_validator

from prealign.config.paths import ExpandedPath
from prealign.config.sections import Count, Section


class ExtensionConfig(Section):
    """Tokens for languages that a given tokenizer was not made for, behind its own."""

    tokens: Count
    """How many; `vocab_size` counts them."""
    languages: Annotated[list[str], Field(min_length=1)]
    """The languages of whose text they are learned, by byte-pair merges of the tokens that are there."""


class TokenizerConfig(Section):
    """Byte-level BPE: trained on the text, or given as tiktoken ranks."""

    vocab_size: Annotated[int, Field(ge=257)] = 50_000
    """Byte-pair ranks plus the end-of-document token, which is the last id of a trained tokenizer."""
    ranks: ExpandedPath | None = None
    """A `.tiktoken` file (base64 token, rank), or a folder that `launchers/import_hf.py` wrote, to load in place of
    training."""
    pattern: str | None = None
    """Pre-tokenizer regular expression; by default the folder's, or one that puts a token boundary at every word
    edge."""
    end_of_document: Annotated[int, Field(ge=0)] | None = None
    """Id of the token that ends a document; by default the last one, before those of `extension`.
    `launchers/import_hf.py` says which it is."""
    extension: ExtensionConfig | None = None
    """Learn more tokens, for new languages, behind those of `ranks`; `model.new_rows` says what a checkpoint's
    embedding gets for them."""
    training_bytes: Count = 50_000_000
    """Text per language that the tokenizer is trained on; where words are written without spaces, an eighth of it
    stands for the whole, to bound memory."""

    @model_validator(mode="after")
    def _extends_given_ranks(self) -> "TokenizerConfig":
        if self.extension is None:
            return self
        if self.ranks is None:
            raise ValueError(
                "extension: found without ranks; expected the tokenizer to extend; one that is trained on the text is "
                "trained on all languages of it"
            )
        if self.given_size <= 256:
            raise ValueError(
                f"extension.tokens: found {self.extension.tokens} of vocab_size={self.vocab_size}; expected vocab_size "
                f"to be theirs and those of ranks, of which it leaves {self.given_size}"
            )
        return self

    @model_validator(mode="after")
    def _end_is_a_token(self) -> "TokenizerConfig":
        if self.end_id >= self.vocab_size:
            raise ValueError(f"found end_of_document={self.end_id}; expected an id below vocab_size={self.vocab_size}")
        return self

    @property
    def end_id(self) -> int:
        """Id of the token that ends a document."""
        return self.given_size - 1 if self.end_of_document is None else self.end_of_document

    @property
    def given_size(self) -> int:
        """Tokens without those of `extension`."""
        return self.vocab_size - (self.extension.tokens if self.extension is not None else 0)
