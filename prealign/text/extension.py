"""A tokenizer with merges for more languages behind those that it has: its own ids stay as they are.

Byte-pair training goes on from the old tokens where it would start from bytes, so every new token can come out of the
text that it was learned from. Putting the vocabularies of two tokenizers together does not give that: a token whose
parts the old merges never leave beside each other is never used.
"""

import json
from collections.abc import Iterator

import regex

from prealign.errors import UserError
from prealign.text.tokenizer import LONGEST_PIECE, Tokenizer, merged_parts

_FIRST_CHARACTER = 0x100
_SURROGATES = (0xD800, 0xE000)
_SPARE = 1.1
"""Merges learned for each that is wanted: some give the bytes of a token that is there already."""


def extended(tokenizer: Tokenizer, texts: Iterator[str], tokens: int) -> Tokenizer:
    """``tokenizer`` with ``tokens`` more, ids from its `vocab_size` on, learned from ``texts``; pattern and special
    tokens are its own. Raises `UserError` when the text is too small for that many."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    bpe = HuggingFaceTokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\n")
    alphabet = [_character(rank) for rank in tokenizer.ranks.values()]
    size = len(alphabet) + round(_SPARE * tokens) + 1
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_as_characters(tokenizer, texts), trainer)
    bytes_of = {_character(rank): token for token, rank in tokenizer.ranks.items()}
    ranks = dict(tokenizer.ranks)
    for left, right in json.loads(bpe.to_str())["model"]["merges"]:
        token = b"".join(bytes_of[character] for character in left + right)
        if len(ranks) == len(tokenizer.ranks) + tokens:
            break
        rank = len(ranks) + len(tokenizer.special.ids)
        if token not in ranks and len(merged_parts(token, ranks, rank)) == 2:
            ranks[token] = rank
    if (found := len(ranks) - len(tokenizer.ranks)) < tokens:
        raise UserError(
            f"data.tokenizer.extension.tokens: found {tokens:,}; the text gives {found:,}; lower it, and vocab_size "
            f"with it, or add text"
        )
    return Tokenizer(ranks, tokenizer.pattern, tokenizer.special)


def _as_characters(tokenizer: Tokenizer, texts: Iterator[str]) -> Iterator[str]:
    """Each text as lines, one a piece of the pre-tokenizer, of one character for each token."""
    pattern = regex.compile(tokenizer.pattern)
    known: dict[str, str] = {}
    for text in texts:
        lines = []
        for match in pattern.finditer(text):
            piece = match[0]
            if piece not in known:
                known[piece] = "".join(map(_character, tokenizer.encode(piece[:LONGEST_PIECE]).tolist()))
            lines.append(known[piece])
        yield "\n".join(lines)


def _character(token: int) -> str:
    code = _FIRST_CHARACTER + token
    first, end = _SURROGATES
    return chr(code if code < first else code + end - first)
