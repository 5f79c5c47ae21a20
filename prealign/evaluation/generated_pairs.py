"""A small task of inference whose answer is in the words, for models too small for XNLI.

A premise says that somebody did something, or never did; the hypothesis says the same (entailment), the same with
"never" added or taken away (contradiction), or the same of somebody else (neutral). Half of the sentences of each kind
have "never", so neither sentence alone says anything. The words are common in the sample text. In a clone, who sees
equal words can tell neutral from entailment, but must know "never" for the rest.
"""

import random

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

_LABELS = ("entailment", "neutral", "contradiction")


def generate(count: int, seed: int) -> list[tuple[str, str, str]]:
    """``count`` pairs as premise, hypothesis and label; labels take turns."""
    chance = random.Random(seed)
    pairs = []
    for number in range(count):
        label = _LABELS[number % len(_LABELS)]
        who, other = chance.sample(_PEOPLE, 2)
        did, never = chance.choice(_ACTIONS), chance.random() < 0.5
        premise = _sentence(who, never, did)
        hypothesis = _sentence(other if label == "neutral" else who, never != (label == "contradiction"), did)
        pairs.append((premise, hypothesis, label))
    return pairs


def _sentence(who: str, never: bool, did: str) -> str:
    return f"{who} {'never ' if never else ''}{did}."
