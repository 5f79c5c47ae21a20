"""What is known about languages before a recipe says anything: defaults of the traits under ``languages.*``.

A language that is not listed takes the defaults of `prealign.config.texts.LanguageConfig`; a recipe sets what differs.
"""

from typing import Any

LANGUAGE_TRAITS: dict[str, dict[str, Any]] = {
    "en": {
        "scripts": ["Latin"],
        "leading_words": ["to", "a", "an", "the"],
        "fragments": [
            *("d", "ll", "m", "re", "s", "t", "ve"),
            *("ain", "aren", "couldn", "didn", "doesn", "don", "hadn", "hasn", "haven", "isn", "mightn", "mustn"),
            *("needn", "oughtn", "shan", "shouldn", "wasn", "weren", "won", "wouldn"),
        ],
        "codes": ["en", "eng"],
    },
    "de": {
        "scripts": ["Latin"],
        "leading_words": ["der", "die", "das", "ein", "eine", "sich"],
        "codes": ["de", "deu", "ger"],
    },
    "zh": {
        "scripts": ["Han"],
        "cased": False,
        "space_prefix": False,
        "word_length": [1, 8],
        "segmenter": "jieba",
        "codes": ["zh", "cmn", "zho", "chi"],
    },
    "ru": {
        "scripts": ["Cyrillic"],
        "optional_marks": "\u0300\u0301",  # stress
        "codes": ["ru", "rus"],
    },
    "ar": {
        "scripts": ["Arabic"],
        "cased": False,
        # tatweel, vowel signs and the superscript alef: ordinary text leaves them out
        "optional_marks": "\u0640\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670",
        "codes": ["ar", "ara", "arb"],
    },
}
"""Traits by the recipe's name of a language; ``zh-Hans`` or ``en_small`` take those of ``zh`` and ``en``."""


def language_traits(name: str) -> dict[str, Any]:
    """Defaults for a language; empty when nothing is known about it."""
    known = LANGUAGE_TRAITS.get(name) or LANGUAGE_TRAITS.get(name.replace("_", "-").partition("-")[0], {})
    return dict(known)


def with_traits(languages: dict[str, Any]) -> dict[str, Any]:
    """A recipe's ``languages`` with traits filled in where it is silent; a clone takes those of its original."""
    filled = {name: value | {} if isinstance(value, dict) else value for name, value in languages.items()}
    for name, value in filled.items():
        if isinstance(name, str) and isinstance(value, dict) and not value.get("clone_of"):
            for key, trait in language_traits(name).items():
                value.setdefault(key, trait)
    for value in filled.values():
        original = filled.get(value.get("clone_of") or "") if isinstance(value, dict) else None
        if isinstance(original, dict):
            for key in _TRAITS & original.keys():
                value.setdefault(key, original[key])
    return filled


_TRAITS = frozenset(
    {
        *("scripts", "cased", "space_prefix", "word_length", "leading_words", "fragments", "optional_marks"),
        *("segmenter", "codes"),
    }
)
