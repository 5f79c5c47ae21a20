"""Our tokenizers as Hugging Face ``tokenizer.json`` files, which give the same ids."""

import json
import unicodedata
from pathlib import Path

import regex
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from prealign.errors import UserError
from prealign.text.tokenizer import Tokenizer, byte_level_characters


def write_tokenizer(folder: Path, tokenizer: Tokenizer, offset: int, context: int) -> None:
    """Write ``tokenizer.json`` and its settings, for the vocabulary block that begins at ``offset``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = byte_level_tokenizer(tokenizer, offset).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.special.end,
        "eos_token": tokenizer.special.end,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def byte_level_tokenizer(tokenizer: Tokenizer, offset: int) -> HuggingFaceTokenizer:
    """The same byte-level BPE, with ids from ``offset`` on.

    tiktoken joins any two neighbours whose bytes together are a token, that of the lowest rank first. So every way to
    cut a token in two is a merge, in the order of the ranks of what comes out.
    """
    character = {byte: shown for shown, byte in byte_level_characters().items()}
    shown = {token: "".join(character[byte] for byte in token) for token in tokenizer.ranks}
    merges = [
        (shown[token[:cut]], shown[token[cut:]])
        for token in sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in shown and token[cut:] in shown
    ]
    vocabulary = {shown[token]: rank + offset for token, rank in tokenizer.ranks.items()}
    vocabulary |= {name: token + offset for name, token in tokenizer.special.ids.items()}
    bpe = HuggingFaceTokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tokenizer.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in tokenizer.special.ids])
    return bpe


_CUT_HERE = (
    "It's 1234567 o'clock, 12:30; isn't été THE?!?!  \n\n \tx\r\ny   \u00a0 z  ",
    "مرحبا 你好世界 3.14159 Привет—мир 😀😁 a_b-c/d\\e <tag> नमस्ते",
    "There is nothing whatever to say of something, however interesting.",
    " \n  \n\n   1 22 333 4444 55555 ((())) ... --- 'LL 've 'Re",
)
"""What patterns cut in different ways: digits, contractions, runs of white space and signs, scripts."""


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise `UserError` where ``tokenizer.json`` would cut text in another way: its regular expressions are of another
    kind than tiktoken's, in which ``{1,3}+``, for one, means something else."""
    split = pre_tokenizers.Split(Regex(tokenizer.pattern), behavior="isolated")
    for text in _CUT_HERE:
        ours = [match[0] for match in regex.finditer(tokenizer.pattern, text)]
        theirs = [piece for piece, _ in split.pre_tokenize_str(text)]
        if ours != theirs:
            cut, other = next((a, b) for a, b in zip(ours, theirs) if a != b)
            raise UserError(
                f"data.tokenizer.pattern: found {tokenizer.pattern!r}, which means another thing to Hugging Face "
                f"tokenizers: a piece of {text!r} would be {other!r} instead of {cut!r}; this run cannot be exported "
                f"with its tokenizer"
            )


def refuse_other_ids(tokenizer: Tokenizer, path: Path) -> None:
    """Raise `UserError` where ``tokenizer``, read from the ``tokenizer.json`` at ``path``, does not give the ids of
    that: its pattern may mean another thing to tiktoken."""
    stock = HuggingFaceTokenizer.from_file(str(path))
    for text in _CUT_HERE:
        composed = unicodedata.normalize("NFC", text)
        if tokenizer.encode(composed).tolist() != stock.encode(composed, add_special_tokens=False).ids:
            raise UserError(
                f"{path}: found the pattern {tokenizer.pattern!r}, by which tiktoken cuts {text!r} in another way; "
                f"this tokenizer cannot be imported"
            )
