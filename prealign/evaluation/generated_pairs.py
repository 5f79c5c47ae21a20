"""A small task of inference whose answer is in the words, for models too small for XNLI.

Both sentences say that somebody did something, soon or never, in other words: each has one adverb of two groups, and
never the same one as the other sentence. One person and adverbs of one group: entailment; of both groups:
contradiction; two persons: neutral. Who only sees which words are equal can tell neutral from the rest, but not
entailment from contradiction: that takes the meaning of the adverbs, and so does a clone's. The words are common in the
sample text.
"""

from collections.abc import Iterator

import numpy as np

from prealign.errors import UserError
from prealign.random_streams import permute

_PEOPLE = [
    "Emma",
    "Elizabeth",
    "Jane",
    "Anne",
    "Fanny",
    "Catherine",
    "Elinor",
    "Marianne",
    "Harriet",
    "Lydia",
    "Charlotte",
    "Mary",
    "Mr. Darcy",
    "Mr. Knightley",
    "Mr. Weston",
    "Mr. Elton",
    "Mr. Collins",
    "Mrs. Bennet",
    "Mrs. Weston",
    "Miss Bates",
    "Edmund",
    "Captain Wentworth",
    "Lady Russell",
    "Sir Thomas",
]
_ACTIONS = [
    "came to the house",
    "went to London",
    "wrote to the doctor",
    "read the letter",
    "saw the garden",
    "left the room",
    "spoke to the family",
    "heard the news",
    "loved the music",
    "knew the truth",
    "walked to the village",
    "took the carriage",
    "met the party",
    "found the book",
    "kept the secret",
    "gave the answer",
    "asked the question",
    "thought of the ball",
    "sat by the fire",
    "called on the mother",
    "waited for the morning",
    "talked of the journey",
    "wished for the summer",
    "returned to the country",
]

_ADVERBS = (("soon", "then", "often"), ("never", "hardly", "scarcely"))
_LABELS = ("entailment", "neutral", "contradiction")
_ADVERB_PAIRS = {
    "entailment": [(a, b) for group in _ADVERBS for a in group for b in group if a != b],
    "contradiction": [pair for a in _ADVERBS[0] for b in _ADVERBS[1] for pair in ((a, b), (b, a))],
}
_ADVERB_PAIRS["neutral"] = _ADVERB_PAIRS["entailment"] + _ADVERB_PAIRS["contradiction"]
PAIRS = len(_LABELS) * len(_PEOPLE) * len(_ACTIONS) * len(_ADVERB_PAIRS["entailment"])
"""So many pairs there are before one comes again."""


def generate(first: int, count: int, key: str) -> Iterator[tuple[str, str, str]]:
    """Pairs ``first`` to ``first + count`` of one sequence without repetitions, as premise, hypothesis and label.

    Labels take turns. ``key`` names the recipe's key in errors. Raises `UserError`."""
    if first + count > PAIRS:
        raise UserError(
            f"{key}: found first={first} and generated={count}; there are {PAIRS} generated pairs; take fewer"
        )
    for number in range(first, first + count):
        label = _LABELS[number % len(_LABELS)]
        adverbs = _ADVERB_PAIRS[label]
        others = len(_PEOPLE) - 1 if label == "neutral" else 1
        space = len(_PEOPLE) * others * len(_ACTIONS) * len(adverbs)
        place = int(permute(np.array([number // len(_LABELS)]), space, number % len(_LABELS))[0])
        place, adverb = divmod(place, len(adverbs))
        place, action = divmod(place, len(_ACTIONS))
        who, other = divmod(place, others)
        asked = (who + 1 + other) % len(_PEOPLE) if label == "neutral" else who
        sentences = [
            f"{_PEOPLE[person]} {word} {_ACTIONS[action]}." for person, word in zip((who, asked), adverbs[adverb])
        ]
        yield sentences[0], sentences[1], label
