"""The loop against an endpoint that misbehaves: every word ends translated or listed."""

import email.utils
import itertools
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prealign.config.translation import TranslationConfig
from prealign.lexicon.llm.cache import Cache
from prealign.lexicon.llm.endpoint import Endpoint, retry_after_seconds
from prealign.lexicon.llm.prompt import INSTRUCTIONS, Prompt
from prealign.lexicon.llm.translating import Outcome, translate_words
from tests.lexicon.llm_server import FAULTS, KEY, Server, translations

PROMPT = Prompt("en", {"en": "English", "de": "German", "zh": "zh"}, INSTRUCTIONS)
LANGUAGES = ["de", "zh"]


def some_words(count: int) -> dict[str, str]:
    """Words of letters, every third one written with a capital."""
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(count)]
    return {word: word.capitalize() if n % 3 == 0 else word for n, word in enumerate(words)}


@dataclass
class Ran:
    outcome: Outcome
    cache: Cache
    endpoint: Endpoint
    lines: list[str]


def ran(server: Server, folder: Path, words: dict[str, str], stop: threading.Event | None = None, **keys: Any) -> Ran:
    values = {"model": "m", "base_url": server.url, "words_per_request": 8, "requests_per_minute": 1e6}
    values |= {"timeout": 0.5, "attempts": 3, "backoff": 0.01, "concurrency": 3}
    settings = TranslationConfig.model_validate(values | keys)
    stop = stop or threading.Event()
    cache = Cache(folder / "cache.jsonl", settings.model, {code: PROMPT.identity(code) for code in LANGUAGES})
    endpoint = Endpoint(settings, KEY, stop)
    lines: list[str] = []
    try:
        outcome = translate_words(words, LANGUAGES, PROMPT, endpoint, cache, settings, stop, lines.append)
    finally:
        cache.close()
    return Ran(outcome, cache, endpoint, lines)


def whole(words: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    return {word: {code: translations(as_sent, code) for code in LANGUAGES} for word, as_sent in words.items()}


def assert_no_key(folder: Path, done: Ran) -> None:
    assert KEY not in (folder / "cache.jsonl").read_text()
    assert not [line for line in done.lines if KEY in line]
    assert not [reason for reason in done.outcome.failed.values() if KEY in reason or "\n" in reason]
    assert KEY not in str(done.outcome.error)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_now_and_then_costs_no_word(tmp_path: Path, fault: str) -> None:
    words = some_words(60)
    with Server(lambda number, _: fault if number in (1, 3, 5) else "ok", hang=0.8) as server:
        done = ran(server, tmp_path, words)
    assert done.cache.known == whole(words)
    assert done.outcome.failed == {}
    assert {fault, "ok"} == {request.behaviour for request in server.requests}
    if fault in ("extra words", "duplicated words", "prose"):
        assert len(server.requests) == 8
    assert_no_key(tmp_path, done)


def test_all_faults_together(tmp_path: Path) -> None:
    words = some_words(500)
    draw = random.Random(1)
    faults = itertools.cycle(FAULTS)
    with Server(lambda number, _: next(faults) if draw.random() < 0.4 else "ok", hang=0.8) as server:
        done = ran(server, tmp_path, words, concurrency=6, attempts=6)
    assert set(FAULTS) <= {request.behaviour for request in server.requests}
    for word in words:
        for code in LANGUAGES:
            answered = code in done.cache.known.get(word, {})
            assert answered != ((word, code) in done.outcome.failed)
    assert len(done.outcome.failed) <= 10  # five misfortunes in a row
    recorded = [pair for pair in server.answered() if pair not in done.outcome.failed]
    assert len(recorded) == len(set(recorded)), "a word was asked for again after a whole answer"
    assert_no_key(tmp_path, done)


def test_nothing_is_asked_for_twice_over_runs(tmp_path: Path) -> None:
    words = some_words(40)
    with Server() as server:
        ran(server, tmp_path, dict(list(words.items())[:17]), timeout=30.0)
        before = len(server.requests)
        done = ran(server, tmp_path, words, timeout=30.0)
        after = len(server.requests)
        ran(server, tmp_path, words, timeout=30.0)
        assert len(server.requests) == after
    assert done.cache.known == whole(words)
    assert sorted(server.answered()) == sorted((word, code) for word in words for code in LANGUAGES)
    assert (before, after) == (3, 3 + 3)


def test_a_language_that_is_added_is_asked_for_alone(tmp_path: Path) -> None:
    words = some_words(5)
    with Server(lambda number, _: "language left out" if number == 0 else "ok") as server:
        done = ran(server, tmp_path, words)
    assert [request.languages for request in server.requests] == [["de", "zh"]] + [["zh"]] * 3
    assert done.cache.known == whole(words)


def test_words_no_reply_has_are_listed(tmp_path: Path) -> None:
    words = some_words(20)
    lost = list(words)[3]
    with Server(lambda number, asked: "silent" if words[lost] in asked else "ok") as server:
        server.replies["silent"] = lambda asked, codes: (
            "["
            + ", ".join(f'{{"word": "{word}", "de": ["a"], "zh": []}}' for word in asked if word != words[lost])
            + "]"
        )
        done = ran(server, tmp_path, words)
    assert {word for word, _ in done.outcome.failed} == {lost}
    assert set(done.outcome.failed.values()) <= {"the reply left it out", "the reply holds no translations"}
    sizes = [len(request.words) for request in server.requests if words[lost] in request.words]
    assert sizes == [8, 1, 1, 1, 1]
    assert not done.outcome.stopped


def test_a_word_that_breaks_the_endpoint_costs_itself_alone(tmp_path: Path) -> None:
    words = some_words(40)
    poison = next(iter(words))
    with Server(lambda number, asked: "500" if words[poison] in asked else "ok") as server:
        done = ran(server, tmp_path, words, concurrency=1)
    assert {word for word, _ in done.outcome.failed} == {poison}
    assert "HTTP 500: " in done.outcome.failed[poison, "de"]
    assert "***" in done.outcome.failed[poison, "de"]
    assert len(done.cache.known) == 39
    assert_no_key(tmp_path, done)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("400", "mend the section translation"),
        ("401", "set the environment variable OPENAI_API_KEY to a valid key"),
        ("403", "that may use this model"),
        ("404", "found model 'm'"),
        ("quota", "add credit"),
    ],
)
def test_what_does_not_pass_ends_the_run_at_once(tmp_path: Path, behaviour: str, message: str) -> None:
    words = some_words(80)
    with Server(lambda number, _: behaviour if number >= 4 else "ok") as server:
        done = ran(server, tmp_path, words, concurrency=1)
    assert len(server.requests) == 5
    assert message in str(done.outcome.error)
    assert server.url in str(done.outcome.error)
    assert "\n" not in str(done.outcome.error)
    assert len(done.cache.known) == 32
    assert len(done.outcome.failed) == 2 * 48
    assert_no_key(tmp_path, done)


def test_replies_under_way_are_recorded_when_a_mistake_ends_the_run(tmp_path: Path) -> None:
    with Server(lambda number, _: "401" if number == 3 else "ok", delay=0.1) as server:
        done = ran(server, tmp_path, some_words(200), concurrency=4)
    assert done.outcome.error is not None
    assert {(word, code) for word, codes in done.cache.known.items() for code in codes} == set(server.answered())
    assert len(server.requests) <= 8


def test_an_endpoint_without_schemas_is_asked_for_plain_json(tmp_path: Path) -> None:
    words = some_words(40)

    with Server(lambda number, _: "no json_schema" if number < 3 else "ok") as server:
        done = ran(server, tmp_path, words)
        formats = [request.body.get("response_format", {}).get("type") for request in server.requests]
    assert done.cache.known == whole(words)
    assert formats[0] == "json_schema"
    assert formats[-1] in ("json_object", None)
    with Server(lambda number, _: "no json_schema") as server:
        done = ran(server, tmp_path / "fixed", words, reply_format="json_schema", concurrency=1)
    assert len(server.requests) == 1
    assert "reply_format" in str(done.outcome.error)


def test_retry_after_holds_all_requests_back(tmp_path: Path) -> None:
    with Server(lambda number, _: "429" if number == 5 else "ok", delay=0.01, retry_after="1.5") as server:
        ran(server, tmp_path, some_words(200), concurrency=4)
    after = [request.time - server.requests[5].time for request in server.requests]
    assert [moment for moment in after if 0.7 < moment < 1.5] == []
    assert len([moment for moment in after if moment >= 1.5]) >= 15


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after_seconds({"retry-after": "7"}) == 7
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after_seconds({"retry-after": date}) == pytest.approx(100, abs=3)
    for nonsense in ("soon", "nan", "inf", "-3", ""):
        assert retry_after_seconds({"retry-after": nonsense}) is None
    assert retry_after_seconds({}) is None


def test_pace_and_concurrency(tmp_path: Path) -> None:
    with Server(delay=0.2) as server:
        start = time.monotonic()
        ran(server, tmp_path, some_words(96), concurrency=3)
        assert server.most_at_once == 3
        assert time.monotonic() - start > 4 * 0.2
    with Server() as server:
        start = time.monotonic()
        ran(server, tmp_path / "slow", some_words(80), requests_per_minute=600)
        assert server.requests[-1].time - start >= 9 * 0.1


def test_an_endpoint_that_is_down_ends_the_run(tmp_path: Path) -> None:
    words = some_words(200)
    with Server() as server:
        pass
    done = ran(server, tmp_path, words)
    assert "1 requests in a row had no reply" in done.outcome.stopped
    assert len(done.outcome.failed) == 400
    with Server(lambda number, _: "ok" if number < 3 else "503") as server:
        done = ran(server, tmp_path, words)
    assert "8 requests in a row had no reply; the last one: HTTP 503" in done.outcome.stopped
    assert len(server.requests) < 3 + 3 * (8 + 3)
    assert len(done.cache.known) == 24
    assert len(done.outcome.failed) == 2 * 176


def test_a_model_that_cannot_do_it_ends_the_run(tmp_path: Path) -> None:
    with Server(lambda number, _: "not JSON") as server:
        done = ran(server, tmp_path, some_words(676), concurrency=1)
    assert "50 replies in a row were of no use" in done.outcome.stopped
    assert len(server.requests) == 50
    assert len(done.outcome.failed) == 2 * 676


def test_a_reply_that_trickles_is_given_up(tmp_path: Path) -> None:
    words = some_words(5)
    with Server(lambda number, _: "trickle" if number == 0 else "ok", hang=3.0) as server:
        start = time.monotonic()
        done = ran(server, tmp_path, words)
        assert time.monotonic() - start < 2.0
    assert done.cache.known == whole(words)


def test_stop_waits_for_what_is_under_way(tmp_path: Path) -> None:
    stop = threading.Event()

    def answer(number: int, words: list[str]) -> str:
        if number == 2:
            stop.set()
        return "ok"

    with Server(answer, delay=0.3) as server:
        done = ran(server, tmp_path, some_words(400), stop, timeout=5.0)
    assert done.outcome.stopped == "interrupted"
    assert 0 < len(done.cache.known) == 8 * len(server.requests) < 100
    assert set(done.outcome.failed.values()) == {"not asked for: interrupted"}


def test_the_request_that_is_sent(tmp_path: Path) -> None:
    with Server() as server:
        ran(server, tmp_path, {"german": "German", "run": "run"}, request={"temperature": 0, "top_k": 1})
    sent = server.requests[0]
    assert sent.authorization == f"Bearer {KEY}"
    assert sent.words == ["German", "run"]
    assert (sent.body["model"], sent.body["temperature"], sent.body["top_k"]) == ("m", 0, 1)
    schema = sent.body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["words"]["items"]["required"] == ["word", "de", "zh"]
    assert "English" in sent.body["messages"][0]["content"]
    assert '"de": German' in sent.body["messages"][0]["content"]
