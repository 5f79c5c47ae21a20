"""Counting words of text that is written without spaces."""

import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

_LETTERS = re.compile(r"[^\W\d_]+")


def segmenter_version(segmenter: str) -> str | None:
    """The installed version of a segmenter (`languages.*.segmenter`); None when it is not installed."""
    try:
        return version(segmenter)
    except PackageNotFoundError:
        return None


def count_segmented(texts: Iterable[str]) -> Counter[str]:
    """Words by jieba, with their occurrences; only letters are counted. Raises ImportError without jieba."""
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    counts: Counter[str] = Counter()
    for text in texts:
        for run in _LETTERS.findall(text):
            counts.update(jieba.cut(run))
    return counts
