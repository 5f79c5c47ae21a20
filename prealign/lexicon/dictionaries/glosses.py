"""Splitting what dictionaries write for people: lists of translations between brackets, numbers and markup."""

import re

_NUMBER = re.compile(r"^\s*(?:\d+|[a-z]|[IVX]+)[.)]\s+")
_OPEN, _CLOSE = "([{<（［｛【《", ")]}>）］｝】》"


def split_list(text: str, separators: str = ",;") -> list[str]:
    """The parts between separators that stand outside brackets, stripped, none empty."""
    parts, depth, begin = [], 0, 0
    for place, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth = max(depth - 1, 0)
        elif depth == 0 and character in separators:
            parts.append(text[begin:place])
            begin = place + 1
    parts.append(text[begin:])
    return [part.strip() for part in parts if part.strip()]


def senses(lines: list[str]) -> list[str]:
    """Translations of an article's lines, in order: numbered or not, between commas and semicolons."""
    separators = ",;،؛，；、"
    return [part for line in lines for part in split_list(_NUMBER.sub("", line), separators)]
