"""CC-CEDICT: ``traditional simplified [pin1 yin1] /gloss; gloss/gloss/`` lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from prealign.lexicon.dictionaries.glosses import split_list
from prealign.lexicon.dictionaries.opening import bad_line, text_lines

LINE = re.compile(r"^(\S+) (\S+) \[[^\]]*\]\]? /(.*)/\s*$")
_NOT_A_MEANING = re.compile(
    r"^(?:\([^)]*\)\s*)*(?:CL:|(?:old |archaic |Japanese |erhua )*variant of |see |surname |abbr\. |used in |also )"
).match


def read_cedict(path: Path, traditional: bool = False) -> Iterator[tuple[str, str, int]]:
    """(Chinese, English gloss, rank of the gloss); classifiers, surnames and references to entries are passed over."""
    for _, line in text_lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.match(line)
        if match is None:
            yield bad_line(line)
            continue
        headword = match[1] if traditional else match[2]
        glosses = [gloss for part in match[3].split("/") for gloss in split_list(part, ";")]
        meanings = [gloss for gloss in glosses if not _NOT_A_MEANING(gloss)]
        for rank, gloss in enumerate(meanings):
            yield headword, gloss, rank
