"""The generated inference task: deterministic, balanced, and nothing to guess from one sentence alone."""

from collections import Counter

from prealign.config.nli import NliData
from prealign.evaluation.generated_pairs import generate
from prealign.evaluation.nli_data import read_pairs

LABELS = ["entailment", "neutral", "contradiction"]


def test_the_label_follows_from_the_pair() -> None:
    for premise, hypothesis, label in generate(600, seed=1):
        said, asked = premise.removesuffix("."), hypothesis.removesuffix(".")
        never_differs = ("never " in said) != ("never " in asked)
        same_but_never = said.replace("never ", "") == asked.replace("never ", "")
        expected = "neutral" if not same_but_never else "contradiction" if never_differs else "entailment"
        assert label == expected


def test_neither_sentence_alone_tells_the_label() -> None:
    pairs = generate(3000, seed=1)
    assert Counter(label for *_, label in pairs) == dict.fromkeys(LABELS, 1000)
    for position in (0, 1):
        share = Counter(pair[2] for pair in pairs if "never " in pair[position])
        assert all(abs(share[label] / 1000 - 0.5) < 0.06 for label in LABELS)


def test_seeds_give_other_pairs_and_the_same_seed_the_same() -> None:
    assert generate(50, seed=1) == generate(50, seed=1) != generate(50, seed=2)
    pairs = read_pairs(NliData(generated=50, seed=1, max_rows=7), "train", LABELS)
    assert pairs == [(*pair, LABELS.index(label)) for *pair, label in generate(7, seed=1)]
