"""Pairs of sentences with labels, as token ids."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prealign.config.nli import NliDataConfig
from prealign.errors import UserError
from prealign.evaluation.generated_pairs import generate
from prealign.text.clone_tokenizer import CloneTokenizer

_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"))

Pair = tuple[str, str, int]
"""Premise, hypothesis, and the number of the label."""


def read_pairs(data: NliDataConfig, key: str, labels: list[str]) -> list[Pair]:
    """The pairs of a file or dataset, or generated, at most `max_rows`; ``key`` names the recipe's key in errors.
    Raises `UserError`."""
    if data.generated is not None:
        pairs = [(a, b, labels.index(label)) for a, b, label in generate(data.first, data.generated, key)]
    elif data.file is not None:
        pairs = _from_file(data.file, key, labels)
    else:
        pairs = _from_hub(data, key, labels)
    if not pairs:
        raise UserError(f"{key}: found no pair of sentences; expected at least one")
    return pairs[: data.max_rows]


def encode_pair(tokenizer: CloneTokenizer, language: str, pair: Pair, context: int) -> np.ndarray:
    """Token ids (int64) of premise, line end, hypothesis, at most ``context``: what is too long is cut off the premise,
    then off the hypothesis's beginning."""
    premise = tokenizer.encode(pair[0].strip() + "\n", language)
    hypothesis = tokenizer.encode(pair[1].strip(), language)[-context:]
    room = context - len(hypothesis)
    return np.concatenate((premise[len(premise) - min(room, len(premise)) :], hypothesis))


def _from_file(path: Path, key: str, labels: list[str]) -> list[Pair]:
    readers: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
    opened = readers.get(path.suffix, open)
    pairs = []
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                parts = line.rstrip("\n").split("\t")
                if len(parts) != 3 or parts[2] not in labels or not parts[1].strip():
                    raise UserError(
                        f"{path}, line {number}: found {line.strip()[:80]!r}; expected "
                        f"'sentence<tab>sentence<tab>label' with a label of {labels}"
                    )
                pairs.append((parts[0], parts[1], labels.index(parts[2])))
    except (OSError, UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{key}: '{path}' cannot be read ({error}); expected a TSV file") from None
    return pairs


def _from_hub(data: NliDataConfig, key: str, labels: list[str]) -> list[Pair]:
    import datasets

    try:
        rows = datasets.load_dataset(str(data.hub), data.hub_name, split=data.hub_split)
        first, second = _COLUMNS[1] if _COLUMNS[1][0] in rows.column_names else _COLUMNS[0]
        columns = zip(rows[first], rows[second], rows["label"])
        return [(premise, hypothesis, _label(label, labels)) for premise, hypothesis, label in columns]
    except (ValueError, OSError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}.hub: '{data.hub}' cannot be read ({reason}); expected a dataset with premise, hypothesis (or "
            "sentence1, sentence2) and label"
        ) from None


def _label(label: int | str, labels: list[str]) -> int:
    if label in labels or label in range(len(labels)):
        return labels.index(label) if isinstance(label, str) else label
    raise ValueError(f"found the label {label!r}; expected one of {labels} or its number")
