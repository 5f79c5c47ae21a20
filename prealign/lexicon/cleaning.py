"""What a dictionary writes -> a word as running text has it, or the reason why it is left out."""

import html
import unicodedata
from collections import Counter

import regex

from prealign.config.texts import LanguageConfig

_MARKUP = regex.compile(
    r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>|【[^【】]*】|《[^《》]*》|(?<!\S)/[^/\s][^/]*/(?!\S)"
)
_UNCLOSED = regex.compile(r"[(\[{<].*$")
_INVISIBLE = regex.compile(r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\p{Cc}]")
_EXPLANATION = regex.compile(r"\s+[-–—]+(?:\s.*)?$")
_AFFIX = regex.compile(r"^(?:\.\.+|[-‐–—~])\S|\S(?:\.\.|[-‐–—~])$")
_EDGES = regex.compile(r"^[^\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}]+$")
_WORD = regex.compile(r"[\p{L}\p{M}\-‐'’·・ \u200c\u200d]+")
_EXAMPLES = 5

REASONS = {
    "bad line": "a line that is not as the format of its file has it",
    "source is not a word": "the source side is empty, several words, or has other characters than letters",
    "fragment": "the source side is what an apostrophe leaves of a word (languages.*.fragments)",
    "not in the text": "the source word does not occur in the source language's training text (often enough)",
    "empty": "nothing is left without brackets and markup",
    "affix": "a part of a word, written with a hyphen or an ellipsis",
    "abbreviation": "ends with a full stop",
    "several words": "more words than lexicon.max_words",
    "characters": "digits or signs inside the word",
    "script": "letters of a script that is not among languages.*.scripts",
    "length": "shorter or longer than languages.*.word_length",
    "repeated": "given before by the same dictionary, maybe in another case",
    "shared by too many": "given for more source words than lexicon.max_sources",
    "beyond the best": "more translations than lexicon.max_translations",
    "held out": "one of its words is on the list of held-out words",
}
"""Why a pair of words is not in the table."""


class Dropped:
    """How many pairs were left out for which reason, with the first few of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, source: str, translation: str) -> None:
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            # JSON can hold halves of surrogate pairs, which no file can
            examples.append(
                (f"{source} = {translation}" if translation else source).encode("utf-8", "replace").decode()
            )

    def as_dict(self) -> dict[str, dict[str, object]]:
        """``{reason: {"pairs": n, "examples": [...]}}`` in the order of `REASONS`."""
        return {
            reason: {"pairs": self.counts[reason], "examples": self.examples[reason]}
            for reason in REASONS
            if self.counts[reason]
        }


class Cleaner:
    """Cleans the words of one language by the facts that the recipe knows of it."""

    def __init__(self, language: LanguageConfig, max_words: int) -> None:
        self._leading = {word.lower() for word in language.leading_words}
        self._fragments = {word.lower() for word in language.fragments}
        self._marks = dict.fromkeys(map(ord, language.optional_marks))
        self._cased = language.cased
        self._shortest, self._longest = language.word_length
        self._max_words = max_words
        scripts = "".join(rf"\p{{scx={script}}}" for script in language.scripts)
        self._foreign = regex.compile(rf"[\p{{L}}--[{scripts}]]", flags=regex.V1) if scripts else None

    def clean(self, raw: str) -> tuple[str, str]:
        """(word, "") or ("", reason), a reason of `REASONS`.

        Unicode is normalised to NFKC; HTML entities are resolved; text in brackets, tags and ``/.../`` go, invisible
        characters, the language's optional marks, what follows a dash between spaces, articles and the like before the
        word, and signs around it.
        """
        text = self._normalise(html.unescape(raw) if "&" in raw else raw)
        while (stripped := _MARKUP.sub(" ", text)) != text:
            text = stripped
        words = _EXPLANATION.sub("", _UNCLOSED.sub("", text)).split()
        if not words:
            return "", "empty"
        while len(words) > 1 and words[0].lower() in self._leading:
            words = words[1:]
        text = " ".join(words)
        if _AFFIX.search(text):
            return "", "affix"
        if self._cased and len(words) == 1 and text.endswith("."):
            return "", "abbreviation"
        text = _EDGES.sub("", text)
        words = text.split()
        if not words:
            return "", "empty"
        if len(words) > self._max_words:
            return "", "several words"
        if self._foreign is not None and self._foreign.search(text):
            return "", "script"
        if not _WORD.fullmatch(text):
            return "", "characters"
        if not self._shortest <= len(text) <= self._longest:
            return "", "length"
        return text, ""

    def is_fragment(self, word: str) -> bool:
        """Whether a cleaned word is one of the language's `fragments`."""
        return word.lower() in self._fragments

    def key(self, word: str) -> str:
        """What words are compared by: normalised, in lower case, without optional marks."""
        return self._normalise(word).lower()

    def _normalise(self, text: str) -> str:
        if text.isascii():
            return text
        if self._marks:
            text = unicodedata.normalize("NFD", text).translate(self._marks)
        return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
