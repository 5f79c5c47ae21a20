"""The cache: what was paid for is known again, whatever happened to the end of the file."""

import json
from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.lexicon.llm.cache import Cache

PROMPTS = {"de": "aaa", "zh": "bbb"}


def written(path: Path) -> None:
    cache = Cache(path, "model", PROMPTS)
    cache.add({"house": {"de": ["Haus"], "zh": ["房子"]}}, 10, 20)
    cache.add({"run": {"de": []}}, 1, 2)
    cache.close()


def test_a_new_process_knows_what_was_added(tmp_path: Path) -> None:
    written(tmp_path / "cache.jsonl")
    cache = Cache(tmp_path / "cache.jsonl", "model", PROMPTS)
    assert cache.known == {"house": {"de": ["Haus"], "zh": ["房子"]}, "run": {"de": []}}
    assert (cache.input_tokens, cache.output_tokens) == (11, 22)


def test_another_model_or_prompt_is_another_answer(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    written(path)
    assert Cache(path, "other", PROMPTS, read_only=True).known == {}
    assert Cache(path, "model", PROMPTS | {"de": "new"}, read_only=True).known == {"house": {"zh": ["房子"]}}


def test_a_line_cut_at_any_byte_is_left_out_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    written(path)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        cache = Cache(path, "model", PROMPTS)
        assert list(cache.known) == ["house"]
        cache.add({"tree": {"de": ["Baum"]}}, 1, 1)
        cache.close()
        lines = path.read_bytes().splitlines()
        assert [list(json.loads(line)["words"]) for line in lines] == [["house"], ["tree"]]


def test_a_long_part_of_a_line_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 300_000)
    Cache(path, "model", PROMPTS).close()
    assert path.read_bytes() == whole
    path.write_bytes(b"x" * 300_000)
    assert Cache(path, "model", PROMPTS).known == {}
    assert path.read_bytes() == b""


def test_damage_inside_costs_its_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff\n" + b'{"model": "model"}\n' + b"[]\n" + lines[1])
    cache = Cache(path, "model", PROMPTS)
    assert list(cache.known) == ["house", "run"]
    assert cache.damaged_lines == 3


def test_two_processes_do_not_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    first = Cache(path, "model", PROMPTS)
    with pytest.raises(UserError, match="another translation is writing here"):
        Cache(path, "model", PROMPTS)
    Cache(path, "model", PROMPTS, read_only=True)
    first.close()
    Cache(path, "model", PROMPTS).close()
