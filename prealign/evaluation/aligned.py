"""Whether words are aligned, by what `prealign.evaluation.measuring.alignment` measured: for a terminal and a page."""

from collections.abc import Iterator
from typing import Any, NamedTuple

ALIGNED_COSINE = 0.9
"""Of the input embedding's translations, by which a stage counts as having aligned them."""

_WORDS = {"table": "words of the table", "heldout": "held-out words"}


class Aligned(NamedTuple):
    """One set of words in one language."""

    language: str
    words: str
    """How many of which."""
    layers: dict[str, str]
    """Of the first, a middle and the last layer: cosine of translations, its margin over random pairs, and P@1."""
    cosine: float
    """Of the input embedding."""
    of_table: bool


def aligned_sets(alignment: dict[str, Any]) -> Iterator[Aligned]:
    """All sets of words that were measured."""
    for language, sets in alignment.items():
        for name, of in sets.items():
            if "skipped" in of:
                continue
            found = of["retrieval"]["to_target"]
            last = len(of["cosine"]) - 1
            chosen = {"input embedding": 0, f"block {last // 2}": last // 2, "last layer": last}
            layers = {
                label: f"{of['cosine'][layer]:.2f} ({of['margin'][layer]:+.2f}; {100 * found['csls'][layer]:.0f} %)"
                for label, layer in chosen.items()
            }
            yield Aligned(language, f"{found['queries']:,} {_WORDS[name]}", layers, of["cosine"][0], name == "table")


def alignment_lines(alignment: dict[str, Any]) -> list[str]:
    """One line for each set of words, and a warning where the input embedding is not aligned."""
    sets = list(aligned_sets(alignment))
    lines = [
        f"align: {of.language}, {of.words}: cosine (over random pairs; P@1 by CSLS): "
        + ", ".join(f"{label} {shown}" for label, shown in of.layers.items())
        for of in sets
    ]
    lines += [
        f"warning: the input embedding's cosine of translations into '{of.language}' is {of.cosine:.2f}; expected "
        f"{ALIGNED_COSINE} or more after an align stage; raise align.coverage or align.words_per_step "
        f"(launchers/pretrain.py --check says how often a word is drawn), or align.weight"
        for of in sets
        if of.of_table and of.cosine < ALIGNED_COSINE
    ]
    return lines
