"""Byte-level BPE: tiktoken encodes, Hugging Face `tokenizers` trains; the result is kept as tiktoken ranks."""

import base64
import hashlib
import json
import re
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
import tiktoken

from prealign.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"

WORD_PATTERN = r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""A run of letters and marks is a piece of its own, so a token boundary stands at every edge of every word; the space
before a word belongs to the word's first token."""

SPECIAL_TOKENS = "special_tokens.json"

LONGEST_WHITESPACE = 10_000
"""tiktoken's regular expression engine runs out of stack on whitespace runs of several hundred thousand characters;
longer runs than this are encoded piece by piece."""

LONGEST_PIECE = 500
"""Letters of a run without a break that a tokenizer is trained on. Training takes time in the square of it, and what is
longer is no word."""

_MAYBE_LONG = re.compile(rf"\S{{{LONGEST_PIECE}}}|\s{{{LONGEST_PIECE}}}")
_LONG_PIECE = regex.compile(
    "|".join(rf"({kind}{{{LONGEST_PIECE}}}){kind}+" for kind in (r"[\p{L}\p{M}]", r"[^\s\p{L}\p{M}\p{N}]", r"\s"))
)
_WHITESPACE_RUN = re.compile(rf"\s{{{LONGEST_WHITESPACE}}}")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that no text encodes to, by name, and the name of the one that ends a document."""

    ids: dict[str, int]
    end: str

    @classmethod
    def behind(cls, ranks: dict[bytes, int]) -> "SpecialTokens":
        """Of a tokenizer of ours: end-of-document alone, behind all others."""
        return cls({END_OF_DOCUMENT: len(ranks)}, END_OF_DOCUMENT)

    def to_json(self) -> str:
        """What `read_special_tokens` reads."""
        return json.dumps({"end_of_document": self.end, "ids": self.ids}, indent=1, ensure_ascii=False) + "\n"


class Tokenizer:
    """tiktoken ranks and special tokens.

    ``ranks`` maps token bytes to ids, single bytes included; ``pattern`` is the pre-tokenizer's expression. ``special``
    has the ids that ranks leave of 0..n-1; by default it is end-of-document alone, as the last id.
    """

    def __init__(
        self, ranks: dict[bytes, int], pattern: str = WORD_PATTERN, special: SpecialTokens | None = None
    ) -> None:
        self.ranks = ranks
        self.pattern = pattern
        self.special = special if special is not None else SpecialTokens.behind(ranks)
        self.end_of_document = self.special.ids[self.special.end]
        self.vocab_size = len(ranks) + len(self.special.ids)
        self._names = {token: name for name, token in self.special.ids.items()}
        try:
            self._encoding = tiktoken.Encoding("prealign", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"data.tokenizer.pattern: found {pattern!r}, which is not a regular expression ({reason}); mend it"
            ) from None
        self.token_lengths = np.zeros(self.vocab_size, dtype=np.int32)
        """Bytes of text per token id; special tokens have none."""
        for token, rank in ranks.items():
            self.token_lengths[rank] = len(token)

    def encode(self, text: str) -> np.ndarray:
        """Token ids (uint32) of a text of any length and content; no special tokens are recognised in it.

        Raises `UserError` when the pattern does not match all of the text: tiktoken drops what is between matches.
        """
        if len(text) < LONGEST_WHITESPACE:
            ids = self._ordinary(text)
        else:
            cuts = [0, *(match.end() for match in _WHITESPACE_RUN.finditer(text)), len(text)]
            pieces = [text[a:b] for a, b in pairwise(cuts) if a < b]
            ids = np.concatenate([self._ordinary(piece) for piece in pieces])
        encoded = text.encode("utf-8", "surrogatepass")
        if int(self.token_lengths.take(ids).sum(dtype=np.int64)) != len(encoded):
            raise self._lost_text(encoded, ids)
        return ids

    def _lost_text(self, encoded: bytes, ids: np.ndarray) -> UserError:
        """The error for a text (UTF-8) of which ``ids`` leave out a part."""
        kept = b"".join(map(self.token_bytes, ids.tolist()))
        same = next((i for i, (a, b) in enumerate(zip(kept, encoded)) if a != b), min(len(kept), len(encoded)))
        same = len(encoded[:same].decode("utf-8", "ignore").encode())  # to the start of a character
        lost, before = encoded[same:].decode("utf-8", "replace")[:20], encoded[:same].decode("utf-8", "replace")[-20:]
        return UserError(
            f"data.tokenizer.pattern: found {self.pattern!r}, which does not match all of the text (first lost at "
            f"{lost!r}, after {before!r}); expected every character to be matched; add what is left out, as '|.|\\s'"
        )

    def _ordinary(self, text: str) -> np.ndarray:
        # a list first: tiktoken's encode_to_numpy looks for special tokens and takes half as long again; an array takes
        # the integers out of a list in a third of NumPy's time
        return np.frombuffer(array("I", self._encoding.encode_ordinary(text)), dtype=np.uint32)

    def encode_ordinary_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        """tiktoken's own function, the yardstick of preparation."""
        return self._encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Text of token ids; special tokens are shown by name, partial characters as U+FFFD."""
        parts = []
        run: list[int] = []
        for token in map(int, ids):
            if token not in self._names:
                run.append(token)
                continue
            parts += [self._encoding.decode(run), self._names[token]]
            run = []
        return "".join([*parts, self._encoding.decode(run)])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, maybe a part of a character; special tokens have none."""
        return b"" if token in self._names else self._encoding.decode_single_token_bytes(token)

    def marked_text(self, ids: np.ndarray) -> bytes:
        """The bytes of token ids, maybe not whole characters, with a line end where a special token stands."""
        special = np.fromiter(self._names, np.int64, len(self._names))
        cuts = np.flatnonzero(np.isin(ids, special))
        parts = [ids] if not len(cuts) else np.split(ids, np.stack((cuts, cuts + 1), axis=1).ravel())[::2]
        return b"\n".join(self._encoding.decode_bytes(part.tolist()) for part in parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ranks and pattern, and special tokens where there are others than ours."""
        digest = hashlib.sha256(self.pattern.encode())
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d:%d:%b" % (rank, len(token), token))
        if self._has_special_tokens_of_its_own:
            digest.update(self.special.to_json().encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``ranks.tiktoken``, ``pattern.txt`` and, where there are others than ours, ``special_tokens.json``."""
        lines = [b"%b %d" % (base64.b64encode(token), rank) for token, rank in self.ranks.items()]
        (folder / "ranks.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
        (folder / "pattern.txt").write_text(self.pattern, encoding="utf-8")
        if self._has_special_tokens_of_its_own:
            (folder / SPECIAL_TOKENS).write_text(self.special.to_json(), encoding="utf-8")

    @property
    def _has_special_tokens_of_its_own(self) -> bool:
        return self.special != SpecialTokens.behind(self.ranks)

    @classmethod
    def load(cls, folder: Path, pattern: str | None = None) -> "Tokenizer":
        """Read what `save` wrote; ``pattern`` takes the place of the one there. Raises `UserError`."""
        special = read_special_tokens(folder / SPECIAL_TOKENS)
        ranks = read_ranks(folder / "ranks.tiktoken", special.ids.values() if special is not None else ())
        if pattern is None:
            try:
                pattern = (folder / "pattern.txt").read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{folder / 'pattern.txt'}: cannot be read ({error}); expected a pattern") from None
        return cls(ranks, pattern, special)


def read_special_tokens(path: Path) -> SpecialTokens | None:
    """What `Tokenizer.save` wrote; None where there is no such file. Raises `UserError`."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        special = SpecialTokens(
            {str(name): int(token) for name, token in values["ids"].items()}, values["end_of_document"]
        )
        special.ids[special.end]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not a list of special tokens; expected {{end_of_document: NAME, ids: {{NAME: ID, ...}}}}"
        ) from None
    return special


def read_ranks(path: Path, others: Collection[int] = ()) -> dict[bytes, int]:
    """A `.tiktoken` file: one ``base64(token) rank`` a line, every single byte present; ranks are 0..n-1 without
    ``others``, the ids of special tokens."""
    ranks: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a .tiktoken file") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise UserError(f"{path}, line {number}: found {line[:60]!r}; expected 'base64(token) rank'") from None
    total = len(ranks) + len(others)
    if sorted([*ranks.values(), *others]) != list(range(total)):
        beside = " beside special tokens" if others else ""
        raise UserError(
            f"{path}: ranks are not 0..{total - 1}{beside} without gaps; expected a complete .tiktoken file"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(f"{path}: {len(missing)} single bytes have no rank (first: {missing[0]}); expected all 256")
    return ranks


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of ``vocab_size - 1`` ranks (the last id is end-of-document) on `WORD_PATTERN` pieces,
    of which it sees the first `LONGEST_PIECE` characters.

    Raises `UserError` when the text is too small for that many merges.
    """
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    bpe = HuggingFaceTokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(map(_without_long_pieces, texts), trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]

    to_byte = byte_level_characters()
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in merges:
        token = bytes(to_byte[character] for character in left + right)
        ranks.setdefault(token, len(ranks))
    if len(ranks) != vocab_size - 1:
        raise UserError(
            f"data.tokenizer.vocab_size: found {vocab_size}; the training text supports at most {len(ranks) + 1}; "
            "lower vocab_size or add text"
        )
    return Tokenizer(ranks)


def merged_parts(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """The bytes of a token joined as tiktoken does it, lowest rank first, by ``ranks`` lower than ``below``, to at
    least two parts (where it has two bytes)."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        best, at = below, -1
        for place in range(len(parts) - 1):
            rank = ranks.get(parts[place] + parts[place + 1], below)
            if rank < best:
                best, at = rank, place
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _without_long_pieces(text: str) -> str:
    return _LONG_PIECE.sub(r"\1\2\3", text) if _MAYBE_LONG.search(text) else text


def byte_level_characters() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE uses for bytes (Radford et al. 2019), as character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
