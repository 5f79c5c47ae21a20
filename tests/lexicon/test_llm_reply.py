"""Replies of a model: what is read out of them, whatever surrounds or cuts them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.lexicon.llm.reply import parse_reply

WANTED = {"house": {"de": ["Haus", "Gebäude"], "zh": ["房子"]}, "run": {"de": ["laufen"], "zh": []}}
ENTRIES = [{"word": word} | translations for word, translations in WANTED.items()]
PLAIN = json.dumps({"words": ENTRIES}, ensure_ascii=False)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"```json\n{PLAIN}\n```",
        f"Here you are: {PLAIN} Enjoy!",
        f'<think>perhaps {{"word": "house", "de": ["Unsinn"]}}?</think>\n{PLAIN}',
        json.dumps(ENTRIES),
        json.dumps(WANTED),
        json.dumps({"result": ENTRIES}),
        json.dumps({"words": [{"word": word, "translations": found} for word, found in WANTED.items()]}),
        json.dumps({"words": [{"word": "house", "de": "Haus, Gebäude", "zh": "房子"},
                              {"word": "RUN ", "de": "laufen", "zh": None}]}),
        json.dumps({"words": [*ENTRIES, ENTRIES[0]]}),
        json.dumps({"words": [{"word": "house", "de": [" Haus\n", "", "Haus", "?!", "x" * 101, 7], "zh": ["房子"]},
                              {"word": "house", "de": ["Gebäude"]}, ENTRIES[1], 5, {"de": ["nichts"]}, {"word": 3}]}),
    ],
)  # fmt: skip
def test_what_models_write_is_read(text: str) -> None:
    assert parse_reply(text, ["de", "zh"]) == WANTED


def test_one_language_may_be_written_without_its_code() -> None:
    wanted = {"house": {"de": ["Haus"]}}
    assert parse_reply('{"house": ["Haus"]}', ["de"]) == wanted
    assert parse_reply('[{"word": "house", "translations": ["Haus"]}]', ["de"]) == wanted


def test_a_language_that_is_left_out_stays_open() -> None:
    assert parse_reply('{"words": [{"word": "house", "de": ["Haus"], "zh": 3}]}', ["de", "zh"]) == {
        "house": {"de": ["Haus"]}
    }


@given(st.integers(0, len(PLAIN)))
def test_a_reply_cut_anywhere_gives_whole_entries_only(length: int) -> None:
    found = parse_reply(PLAIN[:length], ["de", "zh"])
    assert found.items() <= WANTED.items()
    first_ends = PLAIN.index("}") + 1
    assert ("house" in found) == (length >= first_ends)


@given(st.text(alphabet='{}[]",:wordeabc \\n1', max_size=60))
def test_any_text_is_survived(text: str) -> None:
    parse_reply(text, ["de"])
    parse_reply('{"words": [' + text, ["de"])


def test_deep_nesting_is_survived() -> None:
    assert parse_reply("[" * 200_000, ["de"]) == {}
    assert parse_reply('{"a":' * 5_000, ["de"]) == {}
