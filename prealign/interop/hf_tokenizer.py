"""A ``tokenizer.json`` of byte-level BPE (GPT-2's, Llama 3's, Qwen's) as tiktoken ranks, special tokens and a pattern.

Hugging Face merges the pairs of a list, in its order. tiktoken joins any two neighbours whose bytes together are a
token, that of the lowest rank first. Both give the same ids when ids grow with the order of the merges and every token
is put together from its bytes, by tokens of lower ranks, in the way that the list says: as no token crosses the edges
of one that comes out, it comes out of the same two parts wherever it stands. That is what `_check_merges` asks for.
"""

import json
import re
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.text.tokenizer import SpecialTokens, Tokenizer, byte_level_characters, merged_parts

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the pre-tokenizer `ByteLevel` cuts by where it has no `Split` before it (Radford et al. 2019)."""

ENDS = ("<|endoftext|>", "<|end_of_text|>")
"""What GPT-2 and Qwen, and Llama 3, put between documents; a chat model's `eos_token` ends a turn."""

_NAMED_AS_SPECIAL = re.compile(r"<.*>|\[.*\]", re.DOTALL)


def read_tokenizer(path: Path, end: str | None = None) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``. ``end``: name of the special token that ends documents; by default one of
    `ENDS`, else the `eos_token` of the ``tokenizer_config.json`` beside it. Raises `UserError` where it is no
    byte-level BPE, or one that tiktoken would give other ids."""
    content = _read(path)
    try:
        _refuse_other_kinds(path, content)
        pattern = _pattern(path, content["pre_tokenizer"])
        ids = _special_ids(path, content)
        vocabulary = {name: token for name, token in content["model"]["vocab"].items() if name not in ids}
        ranks = _ranks(path, vocabulary)
        _check_ids(path, ranks, ids)
        _check_merges(path, ranks, content["model"], vocabulary)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error}); download it again") from None
    return Tokenizer(ranks, pattern, SpecialTokens(ids, _end(path, ids, end)))


def check_ranks(folder: Path, tokenizer: Tokenizer, given: int) -> int:
    """How many of the prepared data's tokens a checkpoint has: the ``given`` first, or all of them, where it is of a
    run with the same `data.tokenizer.extension`. Without a ``tokenizer.json`` in ``folder``: ``given``.

    Raises `UserError` where its ids stand for other tokens, or where it is of a kind that we do not read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return given
    try:
        content = _read(path)
        ids = _special_ids(path, content)
        theirs = _ranks(path, {n: token for n, token in content["model"]["vocab"].items() if n not in ids})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: found no vocabulary of byte-level BPE in it ({error!r}); download it again") from None
    if theirs == tokenizer.ranks:
        return tokenizer.vocab_size
    if theirs == {token: rank for token, rank in tokenizer.ranks.items() if rank < given}:
        return given
    same = sum(tokenizer.ranks.get(token) == rank for token, rank in theirs.items())
    raise UserError(
        f"data.tokenizer: the prepared data has another tokenizer than '{path}' ({same:,} of {len(theirs):,} ids "
        f"stand for the same token); prepare data with it: launchers/import_hf.py --out makes it ready"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; expected a tokenizer.json; save the tokenizer by transformers"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a tokenizer.json") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}; expected a tokenizer.json")
    return content


def _refused(path: Path, found: str) -> UserError:
    return UserError(f"{path}: found {found}; expected byte-level BPE, as of GPT-2, Llama 3 or Qwen")


def _refuse_other_kinds(path: Path, content: dict[str, Any]) -> None:
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise _refused(path, f"a model {model['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _refused(path, f"model.{key} {model[key]!r}")
    normalizer = content.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":  # which preparation does by itself (text.normalize)
        raise _refused(path, f"a normalizer {normalizer.get('type')}")


def _pattern(path: Path, pre_tokenizer: dict[str, Any] | None) -> str:
    """The regular expression of a ``ByteLevel``, alone or behind a ``Split``."""
    if pre_tokenizer is None:
        raise _refused(path, "no pre_tokenizer")
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    kinds = [step["type"] for step in steps]
    level = steps[-1]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise _refused(path, f"the pre_tokenizer {' + '.join(kinds)}")
    if level["add_prefix_space"]:
        raise _refused(path, "add_prefix_space, which puts a space before every text")
    if kinds == ["ByteLevel"]:
        if not level.get("use_regex", True):
            raise _refused(path, "a pre_tokenizer that cuts nothing")
        return GPT2_PATTERN
    split = steps[0]
    kept_matches = (split["behavior"], split["invert"]) in (("Isolated", False), ("Removed", True))
    if "Regex" not in split["pattern"] or not kept_matches or level.get("use_regex", True):
        raise _refused(path, f"a Split of behavior {split['behavior']} with invert {split['invert']}, or cut twice")
    return split["pattern"]["Regex"]


def _special_ids(path: Path, content: dict[str, Any]) -> dict[str, int]:
    """The added tokens, whose names no text encodes to."""
    ids = {}
    for token in content.get("added_tokens") or []:
        if not token.get("special") and not _NAMED_AS_SPECIAL.fullmatch(token["content"]):
            raise _refused(path, f"the added token {token['content']!r}, which is cut out of ordinary text")
        ids[token["content"]] = token["id"]
    return ids


def _ranks(path: Path, vocabulary: dict[str, int]) -> dict[bytes, int]:
    byte_of = byte_level_characters()
    try:
        return {bytes(byte_of[shown] for shown in name): token for name, token in vocabulary.items()}
    except KeyError as error:
        raise _refused(path, f"the character {error.args[0]!r} in its vocabulary") from None


def _check_ids(path: Path, ranks: dict[bytes, int], special: dict[str, int]) -> None:
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise _refused(path, f"no token for {len(missing)} of the 256 bytes (first: {missing[0]:#04x})")
    there = sorted([*ranks.values(), *special.values()])
    if there != list(range(len(there))):
        gap = next(place for place, token in enumerate(there) if place != token)
        raise UserError(f"{path}: found no token with the id {gap}, or two of one; expected ids 0..{len(there) - 1}")


def _check_merges(path: Path, ranks: dict[bytes, int], model: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """Raise `UserError` unless tiktoken puts every token together as the list of merges does (see above)."""
    byte_of = byte_level_characters()
    bytes_of = {name: bytes(byte_of[shown] for shown in name) for name in vocabulary}
    place: dict[tuple[bytes, bytes], int] = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        place.setdefault((bytes_of[left], bytes_of[right]), number)
    last = -1
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = merged_parts(token, ranks, rank)
        if len(parts) > 2:  # no merge makes it: it is a piece of text as a whole, or never comes out
            if not model.get("ignore_merges"):
                raise UserError(
                    f"{path}: token {token!r} cannot be merged of others; tiktoken would give it all the same"
                )
            continue
        found = place.get((parts[0], parts[1]))
        if found is None or found < last:
            raise UserError(
                f"{path}: token {token!r} (id {rank}) is not merged of {parts[0]!r} and {parts[1]!r} in the order of "
                f"ids; tiktoken would give other ids; this tokenizer cannot be imported"
            )
        last = found


def _end(path: Path, ids: dict[str, int], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in ids:
            raise UserError(f"--end-of-document: found '{wanted}'; {path} has the special tokens {list(ids)[:20]}")
        return wanted
    eos = _eos_token(path.with_name("tokenizer_config.json"))
    found = next((name for name in (*ENDS, eos) if name in ids), None)
    if found is None:
        raise UserError(
            f"{path}: found no special token of {list(ENDS)} and no eos_token; name the one that ends a document with "
            f"--end-of-document: one of {list(ids)[:20]}"
        )
    return found


def _eos_token(path: Path) -> str | None:
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    return token.get("content") if isinstance(token, dict) else token
