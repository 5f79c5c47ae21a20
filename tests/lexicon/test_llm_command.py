"""``launchers/translate.py`` as a user runs it: prepare, translate, prepare; mistakes; killed at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from prealign.config import Recipe, dump_recipe
from prealign.config.languages import LANGUAGE_TRAITS
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.lexicon.table import read_table
from prealign.preparation.pipeline import prepare
from prealign.preparation.translation import WordTranslation
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.lexicon.llm_server import FAULTS, KEY, Server, translations
from tests.processes import ROOT

LANGUAGES = ["de", "zh"]
MIN_COUNT = 3


def recipe_in(folder: Path, url: str = "http://127.0.0.1:1/v1", listed: bool = False, **translation: Any) -> Recipe:
    """Two target languages (other novels stand for them); ``listed``: with the word lists that translation writes."""
    novels = {"en": "northanger_abbey", "de": "persuasion", "zh": "emma"}
    languages: dict[str, Any] = {
        code: {"tokens": 40_960, "text": {"files": [str(SAMPLE_TEXT / f"{novel}.jsonl")], "max_documents": 20}}
        for code, novel in novels.items()
    }
    if listed:
        for code in LANGUAGES:
            languages[code]["dictionaries"] = [str(folder / "data" / "llm" / f"llm-{code}.tsv")]
    settings = {"model": "m", "base_url": url, "words_per_request": 10, "requests_per_minute": 1e6}
    settings |= {"backoff": 0.01, "timeout": 2.0, "language_names": {"de": "German"}}
    changes = {"languages": languages, "translation": settings | translation, "lexicon": {"min_count": MIN_COUNT}}
    return tiny_recipe(folder / "data", data={"heldout_fraction": 0.2}, **changes)


def write(recipe: Recipe, folder: Path) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return ["launchers/translate.py", "--config", str(path)]


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": KEY} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(arguments: list[str], **environment: str) -> tuple[int, str, str]:
    process = start(arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose text is prepared; tests copy from it."""
    folder = tmp_path_factory.mktemp("text")
    prepare(recipe_in(folder), say=lambda line: None)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(prepared / "data"), str(tmp_path / "data")], check=True)
    return tmp_path


def pairs(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in path.read_text().splitlines()]


def wanted_words(folder: Path) -> list[str]:
    """Frequent words; nobody is asked for what an apostrophe leaves of "don't" and the like."""
    words = pairs(folder / "data/words/words.tsv")
    return [w for w, count, _ in words if int(count) >= MIN_COUNT and w not in LANGUAGE_TRAITS["en"]["fragments"]]


def test_translations_become_the_alignment_table(tmp_path: Path) -> None:
    """From text to a table, by the documented commands."""
    with Server() as server:
        arguments = write(recipe_in(tmp_path, server.url, listed=True), tmp_path)
        code, _, err = command(["launchers/prepare.py", *arguments[1:]])
        assert code == 2
        assert "llm-de.tsv" in err
        assert "launchers/translate.py" in err
        code, out, err = command(arguments)
        assert code == 0, err
        code, _, err = command(["launchers/prepare.py", *arguments[1:]])
        assert code == 0, err
    lexicon = open_data(recipe_in(tmp_path, listed=True)).artefacts["lexicon"]
    entries = list(read_table(lexicon.folder / "lexicon.jsonl"))
    assert entries[0].word == "the"
    assert entries[0].translations == {code: translations("the", code) for code in LANGUAGES}
    assert entries[0].sources == {"de": [{"llm-de.tsv": 0}], "zh": [{"llm-zh.tsv": 0}]}
    catherine = next(entry for entry in entries if entry.word == "catherine")
    assert catherine.translations["de"] == translations("Catherine", "de"), "asked for as the text writes it"
    assert min(entry.count for entry in entries) == MIN_COUNT
    assert lexicon.facts["entries"] == len(wanted_words(tmp_path))
    assert (tmp_path / "data/llm/failed.tsv").read_text() == ""
    assert KEY not in out
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_words_without_a_translation_are_listed(folder: Path) -> None:
    with Server(lambda number, words: "poor") as server:
        server.replies["poor"] = lambda words, codes: json.dumps(
            [{"word": word, "de": ["Wort"], "zh": []} for word in words if word != "the"]
        )
        arguments = write(recipe_in(folder, server.url), folder)
        code, out, _ = command([*arguments, "--limit", "3"])
    assert code == 3
    assert "2 translations have no answer; the same command asks for them again" in out
    words = [word for word, _, _ in pairs(folder / "data/words/words.tsv")[:3]]
    assert words[0] == "the"
    assert pairs(folder / "data/llm/llm-de.tsv") == [(word, "Wort") for word in words[1:]]
    assert set(pairs(folder / "data/llm/failed.tsv")) == {
        ("the", "de", "the reply holds no translations"),  # asked for alone in the end
        ("the", "zh", "the reply holds no translations"),
        (words[1], "zh", "the model knows no translation"),
        (words[2], "zh", "the model knows no translation"),
    }


def test_killed_at_any_moment_no_recorded_word_is_paid_for_twice(folder: Path) -> None:
    draw = random.Random(2)
    faults = [fault for fault in FAULTS if fault != "timeout"]
    with Server(lambda number, _: draw.choice(faults) if draw.random() < 0.15 else "ok", delay=0.02) as server:
        server.retry_after = "0.05"
        arguments = write(recipe_in(folder, server.url, concurrency=4, words_per_request=5), folder)
        cache = folder / "data" / "llm" / "cache.jsonl"
        kills = 0
        recorded_at_start: list[tuple[int, set[tuple[str, str]]]] = []
        while kills < 12:
            recorded_at_start.append((len(server.requests), recorded(cache)))
            process = start(arguments)
            target = len(server.requests) + draw.randrange(1, 16)
            while len(server.requests) < target and process.poll() is None:
                time.sleep(0.002)
            assert process.poll() is None, "the work should outlast the kills"
            time.sleep(draw.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            if kills % 3 == 0:  # what a kill in the middle of a write leaves
                with cache.open("ab") as file:
                    file.write(b'{"model":"m","prompts":{"de":"')
        recorded_at_start.append((len(server.requests), recorded(cache)))
        code, out, err = command(arguments)
        assert code == 0, (out, err)
        requests = list(server.requests)

    for first, known in recorded_at_start:
        for request in requests[first:]:
            asked = {(word.lower(), code) for word in request.words for code in request.languages}
            assert not asked & known
    lines = cache.read_text().splitlines()
    paid = [(word, code) for line in lines for word, codes in json.loads(line)["words"].items() for code in codes]
    assert len(paid) == len(set(paid))
    wanted = {(word, code) for word in wanted_words(folder) for code in LANGUAGES}
    assert set(paid) == wanted
    answered = server.answered()
    assert len(answered) - len(set(answered)) <= kills * 4 * 5 * len(LANGUAGES), "only what was under way is lost"
    assert {(word, code) for code in LANGUAGES for word, _ in pairs(folder / f"data/llm/llm-{code}.tsv")} == wanted


def recorded(cache: Path) -> set[tuple[str, str]]:
    """Pairs in whole lines of a cache file."""
    found = set()
    for line in cache.read_bytes().split(b"\n")[:-1] if cache.is_file() else []:
        found |= {(word, code) for word, codes in json.loads(line)["words"].items() for code in codes}
    return found


def test_ctrl_c_records_what_is_under_way_and_goes_on(folder: Path) -> None:
    with Server(delay=0.2) as server:
        arguments = write(recipe_in(folder, server.url, concurrency=2), folder)
        process = start(arguments)
        while len(server.requests) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "interrupted" in out
        assert "Traceback" not in err
        assert recorded(folder / "data/llm/cache.jsonl") == set(server.answered())
        failed = pairs(folder / "data/llm/failed.tsv")
        assert {reason for _, _, reason in failed} == {"not asked for: interrupted"}
        server.delay = 0.0
        assert command(arguments)[0] == 0
        assert len(server.answered()) == len(set(server.answered()))


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ([], {"OPENAI_API_KEY": ""}, "environment variable OPENAI_API_KEY: found an empty"),
        (["translation.key_variable=MY_KEY"], {}, "environment variable MY_KEY: not set"),
        (["translation=null"], {}, "translation: missing in the recipe"),
        (["--languages", "fr", "seed=2"], {}, "--languages: found 'fr'; expected some of ['de', 'zh']"),
        (["--limit", "0"], {}, "--limit: found 0"),
        (["data.dir=/nowhere/data"], {}, "no such token store; run launchers/prepare.py"),
        ([f"translation.key_variable={KEY}"], {}, "expected the name of an environment variable, not a key"),
        (["translation.base_url=http://me:secret@host/v1"], {}, "found credentials"),
        (["translation.request={api_key: abc}"], {}, "keys come from the environment alone"),
        (["translation.request={model: abc}"], {}, "found ['model']"),
        ([], {}, "answered 401 (Error code: 401"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_code_2(
    folder: Path, options: list[str], environment: dict[str, str], message: str
) -> None:
    with Server(lambda number, _: "401") as server:
        code, out, err = command([*write(recipe_in(folder, server.url), folder), *options], **environment)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert KEY not in out + err


def test_the_key_stays_out_of_the_client_s_own_log(folder: Path) -> None:
    with Server(lambda number, _: ["429", "500", "ok"][number % 3]) as server:
        arguments = [*write(recipe_in(folder, server.url), folder), "--limit", "20"]
        code, out, err = command(arguments, OPENAI_LOG="debug")
    assert code == 0
    assert "DEBUG" in err
    assert KEY not in out + err


def test_dry_run_prints_requests_tokens_and_cost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(name: str) -> tiktoken.Encoding:
        raise ConnectionError(name)

    monkeypatch.setattr(tiktoken, "get_encoding", no_network)
    lines: list[str] = []
    recipe = recipe_in(folder, input_price=2.0, output_price=10.0, words_per_request=7, requests_per_minute=60)
    translation = WordTranslation(recipe, ["de"], 100, lines.append)
    translation.dry_run()
    text = "\n".join(lines)
    assert "100 words of 'en' into de by m; 0 of them are in" in text
    assert "100 translations (words x languages) in 15 requests of up to 7 words; at least 0.2 minutes" in text
    tokens = next(line for line in lines if line.startswith("tokens: "))
    sent, received = (
        int(part.split()[0].replace(",", "")) for part in tokens.removeprefix("tokens: ").split(", ")[0::2]
    )
    assert f"cost: {(2 * sent + 10 * received) / 1e6:,.2f}" in text
    assert '"de": German' in text
    assert '["the", ' in text
    assert not (folder / "data/llm").exists()

    # after replies the estimate goes by what they took, and knows what is left
    with Server() as server:
        assert command([*write(recipe_in(folder, server.url), folder), "--languages", "de", "--limit", "30"])[0] == 0
    lines.clear()
    WordTranslation(recipe, ["de"], 100, lines.append).dry_run()
    text = "\n".join(lines)
    assert "30 of them are in" in text
    assert "70 translations (words x languages) in 10 requests" in text
    assert "700 out (as in the replies so far)" in text

    translation = WordTranslation(recipe_in(folder, encoding="klingon"), ["de"], 100, lines.append)
    with pytest.raises(UserError, match="found 'klingon'; expected one of"):
        translation.dry_run()


def test_estimated_tokens_are_near_what_is_sent(folder: Path) -> None:
    """The count of the first requests is that of the bodies that are sent, up to the chat template."""
    recipe = recipe_in(folder, reply_format="text")
    translation = WordTranslation(recipe, None, 40, lambda line: None)
    with Server() as server:
        assert command([*write(recipe_in(folder, server.url, reply_format="text"), folder), "--limit", "40"])[0] == 0
    sent = [message["content"] for request in server.requests for message in request.body["messages"]]
    lines: list[str] = []
    fresh = WordTranslation(recipe_in(folder, reply_format="text", model="other"), None, 40, lines.append)
    fresh._token_counter = lambda: (len, "letters")  # type: ignore[method-assign]
    fresh.dry_run()
    assert f"tokens: {sum(map(len, sent)):,} in (letters)" in "\n".join(lines)
    assert len(translation.words) == 40
