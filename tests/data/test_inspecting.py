"""What `--inspect` prints is what training reads."""

import re
from pathlib import Path

import numpy as np
import pytest

from prealign.data.inspecting import inspect
from prealign.data.prepared import open_data
from prealign.errors import UserError
from tests.conftest import tiny_recipe


def printed(data_dir: Path, samples: int, language: str | None, **changes: object) -> list[str]:
    lines: list[str] = []
    inspect(open_data(tiny_recipe(data_dir, **changes)), samples, language, lines.append)
    return lines


def test_marked_words_are_the_replaced_ones(data_dir: Path) -> None:
    lines = printed(data_dir, 6, None)
    heads = [number for number, line in enumerate(lines) if line.startswith("--- sample")]
    assert len(heads) == 6
    marks = 0
    for head in heads:
        window, switched = map(int, re.search(r"window (\d+) of .*?; (\d+) of", lines[head]).groups())
        found = re.findall(r"\[([^\[>]+)>clone:([^\]]+)\]", lines[head + 1])
        assert switched - 1 <= len(found) <= switched  # one may be cut by the end of the sequence
        assert all(original == translation for original, translation in found)  # a clone is written as the original
        # without its marks the sample reads as the text does
        stream = open_data(tiny_recipe(data_dir)).streams(code_switch=False)[0]
        inputs, targets = np.empty((1, 32), np.int64), np.empty((1, 32), np.int64)
        stream.sequences(np.array([window]), np.array([0]), inputs, targets)
        text = open_data(tiny_recipe(data_dir)).tokenizer.decode(inputs[0])
        plain = re.sub(r"\[([^\[>]+)>clone:[^\]]+\]", r"\1", lines[head + 1])
        assert plain[:20] == text[:20]
        marks += len(found)
    assert marks > 5


def test_words_of_one_language(data_dir: Path) -> None:
    lines = printed(data_dir, 20, "clone")
    assert len([line for line in lines if line.startswith("  ")]) >= 20
    assert all("->" in line for line in lines[1::2] if line.startswith("  "))


def test_without_switching_nothing_is_marked(data_dir: Path) -> None:
    assert not [line for line in printed(data_dir, 3, None, codeswitch={"ratio": 0.0}) if ">clone:" in line]


def test_an_unknown_language_is_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"--language: found 'xx'; expected one of \['en', 'clone'\]"):
        printed(data_dir, 1, "xx")
