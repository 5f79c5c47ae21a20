"""More tokens behind those of a tokenizer: what merges are learned, what stays, what comes out."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex

from prealign.errors import UserError
from prealign.text.extension import extended
from prealign.text.tokenizer import SpecialTokens, Tokenizer, train_tokenizer
from tests.conftest import SAMPLE_TEXT

CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшзыъ")


def documents(count: int) -> list[str]:
    lines = (SAMPLE_TEXT / "northanger_abbey.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return train_tokenizer(iter(documents(6)), 600)


@pytest.fixture(scope="module")
def cyrillic() -> list[str]:
    return [text.lower().translate(CYRILLIC) for text in documents(6)]


@pytest.fixture(scope="module")
def both(english: Tokenizer, cyrillic: list[str]) -> Tokenizer:
    return extended(english, iter(cyrillic), 400)


def test_the_old_ids_stay(english: Tokenizer, both: Tokenizer) -> None:
    assert (english.vocab_size, both.vocab_size) == (600, 1000)
    assert {token: rank for token, rank in both.ranks.items() if rank < 600} == english.ranks
    assert sorted(rank for rank in both.ranks.values() if rank >= 600) == list(range(600, 1000))
    assert (both.end_of_document, both.special) == (599, english.special)
    text = " ".join(word for word in documents(7)[-1].split() if word.isalpha())  # signs are in the new text too
    assert np.array_equal(both.encode(text), english.encode(text))


def test_new_tokens_come_out_and_give_the_text_back(english: Tokenizer, both: Tokenizer, cyrillic: list[str]) -> None:
    ids = np.concatenate([both.encode(text) for text in cyrillic])
    assert "".join(map(both.decode, [both.encode(text) for text in cyrillic])) == "".join(cyrillic)
    assert len(ids) < 0.45 * sum(len(english.encode(text)) for text in cyrillic)
    used = np.unique(ids[ids >= 600])
    assert len(used) > 0.9 * 400  # others are parts of longer ones alone
    mixed = "Sir Walter Elliot, э е шалтер; 12345 \n\n  你好 мхат — naïve"
    assert both.decode(both.encode(mixed)) == mixed


def test_merges_are_those_of_byte_pair_training_from_the_old_tokens(english: Tokenizer, cyrillic: list[str]) -> None:
    """Against the algorithm written out: join the most frequent pair of neighbours, again and again."""
    pieces = Counter(match[0] for text in cyrillic[:2] for match in regex.finditer(english.pattern, text))
    words = {piece: [english.token_bytes(token) for token in english.encode(piece).tolist()] for piece in pieces}
    expected = []
    for _ in range(60):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for piece, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += pieces[piece]
        most = max(pairs.values())
        ties = [pair for pair, count in pairs.items() if count == most]
        if len(ties) > 1:  # which of equals comes first is not said
            break
        left, right = ties[0]
        expected.append(left + right)
        for piece, parts in words.items():
            words[piece] = joined(parts, left, right)
    assert len(expected) >= 25
    found = extended(english, iter(cyrillic[:2]), len(expected))
    assert [token for token, rank in sorted(found.ranks.items(), key=lambda item: item[1]) if rank >= 600] == expected


def joined(parts: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    out: list[bytes] = []
    place = 0
    while place < len(parts):
        if parts[place : place + 2] == [left, right]:
            out.append(left + right)
            place += 2
        else:
            out.append(parts[place])
            place += 1
    return out


def test_special_tokens_in_between(english: Tokenizer, cyrillic: list[str]) -> None:
    special = SpecialTokens({"<|end|>": 600, "<|turn|>": 599, "<|pad|>": 601}, "<|end|>")
    given = Tokenizer(english.ranks, english.pattern, special)
    found = extended(given, iter(cyrillic), 50)
    assert found.vocab_size == 652
    assert {rank for token, rank in found.ranks.items() if token not in english.ranks} == set(range(602, 652))
    assert found.end_of_document == 600


def test_too_little_text(english: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"extension.tokens: found 400; the text gives \d+; lower it") as caught:
        extended(english, iter(["мир да лад"]), 400)
    assert "\n" not in str(caught.value)
