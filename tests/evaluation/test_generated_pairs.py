"""The generated inference task: no guessing from one sentence or from which words are equal, no repetition."""

from collections import Counter

import pytest

from prealign.config.nli import NliConfig, NliDataConfig
from prealign.errors import UserError
from prealign.evaluation.generated_pairs import PAIRS, generate
from prealign.evaluation.nli_data import read_pairs

LABELS = ["entailment", "neutral", "contradiction"]
NEVER = {"never", "hardly", "scarcely"}


def negative(sentence: str) -> bool:
    return bool(NEVER & set(sentence.split()))


def without_adverb(sentence: str) -> str:
    return " ".join(word for word in sentence.split() if word not in NEVER | {"soon", "then", "often"})


def test_the_label_follows_from_the_words() -> None:
    for premise, hypothesis, label in generate(0, 900, "key"):
        one_person = without_adverb(premise) == without_adverb(hypothesis)
        differ = negative(premise) != negative(hypothesis)
        assert label == ("neutral" if not one_person else "contradiction" if differ else "entailment")


def test_one_sentence_alone_says_nothing() -> None:
    pairs = list(generate(0, 3000, "key"))
    assert Counter(label for *_, label in pairs) == dict.fromkeys(LABELS, 1000)
    for position in (0, 1):
        share = Counter(pair[2] for pair in pairs if negative(pair[position]))
        assert all(abs(share[label] / 1000 - 0.5) < 0.06 for label in LABELS)


def test_equal_words_do_not_tell_entailment_from_contradiction() -> None:
    for premise, hypothesis, label in generate(0, 900, "key"):
        equal = [a == b for a, b in zip(premise.split(), hypothesis.split())]
        if label != "neutral":
            assert equal.count(False) == 1  # the adverb


def test_no_pair_comes_twice_so_parts_share_none() -> None:
    pairs = list(generate(0, PAIRS, "key"))
    assert len(set(pairs)) == PAIRS
    assert list(generate(3000, 50, "key")) == pairs[3000:3050]
    with pytest.raises(UserError, match=f"key: found first=1 and generated={PAIRS}; there are {PAIRS} generated pairs"):
        list(generate(1, PAIRS, "key"))


def test_read_as_other_pairs_are() -> None:
    pairs = read_pairs(NliDataConfig(generated=50, first=9, max_rows=7), "train", LABELS)
    assert pairs == [(a, b, LABELS.index(label)) for a, b, label in generate(9, 7, "train")]


def test_parts_that_overlap_are_refused() -> None:
    parts = {"train": {"generated": 30}, "dev": {"generated": 10, "first": 30}, "test": {"en": {"generated": 5}}}
    with pytest.raises(ValueError, match=r"first: found 0; expected at least"):
        NliConfig.model_validate(parts)
    parts["test"] = {"en": {"generated": 5, "first": 40}}
    assert NliConfig.model_validate(parts).test["en"].first == 40
