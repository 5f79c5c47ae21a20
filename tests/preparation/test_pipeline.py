"""Preparation end to end on real text: what is built, what is rebuilt, what is refused."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from prealign.config import Recipe
from prealign.config.stage import align_stage
from prealign.data.contents import SPLITS
from prealign.data.loader import StageDataset
from prealign.data.mixture import Mixture
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.preparation import text_stores
from prealign.preparation.pipeline import _as_if_more, prepare
from prealign.stores.token_store import TokenStore
from prealign.training.plan import Account, pretrain_plan
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.text.clone_text import encode_shown


def prepared(recipe: Recipe) -> list[str]:
    lines: list[str] = []
    prepare(recipe, lines.append)
    return lines


def test_documents_go_to_exactly_one_place(recipe: Recipe) -> None:
    """Every document is in one store, whole; the clone's are English shifted by the vocabulary."""
    data = open_data(recipe)
    text = [json.loads(line)["text"] for line in (SAMPLE_TEXT / "northanger_abbey.jsonl").open()]
    found: dict[str, list[str]] = {}
    for language, shift in (("en", 0), ("clone", 600)):
        for split in SPLITS:
            store = TokenStore(recipe.data.dir / language / split)
            ends = np.cumsum(store.lengths)
            documents = [
                store.tokens[end - length : end].astype(int) - shift for end, length in zip(ends, store.lengths)
            ]
            assert all(document[-1] == data.tokenizer.end_of_document for document in documents)
            found[f"{language} {split}"] = [data.tokenizer.decode(document[:-1]) for document in documents]
    assert found["en dev"] == found["clone dev"]
    assert found["en test"] == found["clone test"]
    assert all(found.values())
    assert sorted(found["en train"] + found["clone train"] + found["en dev"] + found["en test"]) == sorted(text)


def test_words_are_counted_as_in_the_text(recipe: Recipe) -> None:
    data = open_data(recipe)
    store = TokenStore(recipe.data.dir / "en" / "train")
    text = data.tokenizer.decode(store.tokens).lower()
    folder = recipe.data.dir / "lexicon"
    rows = (line.split("\t") for line in (recipe.data.dir / "words" / "words.tsv").read_text().splitlines())
    counts = {word: count for word, count, _ in rows}
    words = "".join(
        character if character.isalpha() else " " for character in text.replace("<|endoftext|>", " ")
    ).split()
    assert sum(map(int, counts.values())) == len(words)
    for word in ("the", "catherine", "abbey"):
        assert int(counts[word]) == words.count(word)
    first = json.loads((folder / "lexicon.jsonl").read_text().splitlines()[0])
    assert first["word"] == "the"
    assert first["translations"] == {"clone": ["the"]}


def test_every_word_of_the_text_is_switchable(recipe: Recipe) -> None:
    """All words are in an En-Clone table; a word before a comma and one at a sentence start are found as well."""
    artefact = open_data(recipe).artefacts["codeswitch"]
    assert artefact.facts["in_table"] >= 0.999 * artefact.facts["words"]


def test_only_what_changed_is_rebuilt(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "data")
    assert [line.split()[0] for line in prepared(recipe)] == ["built"] * 8
    assert [line.split()[0] for line in prepared(recipe)] == ["kept"] * 8
    rare = tiny_recipe(tmp_path / "data", lexicon={"min_count": 2})
    assert [line.split()[0] for line in prepared(rare)] == ["kept"] * 4 + ["built"] * 4
    split = tiny_recipe(tmp_path / "data", data={"heldout_fraction": 0.2})
    assert "built" in {line.split()[0] for line in prepared(split)}
    open_data(split).verify()
    assert not [path for path in (tmp_path / "data").iterdir() if "partial" in path.name or "old" in path.name]


def with_dictionary(tmp_path: Path, recipe: Recipe, content: str, **lexicon: object) -> Recipe:
    """English and German, with ranks of the tiny recipe."""
    (tmp_path / "de.txt").write_text(
        "\n\n".join(f"Das Klavier klingt gut.\n\nDie Frau liest {number} Bücher." for number in range(9))
    )
    (tmp_path / "en-de.txt").write_text(content)
    german = {
        "tokens": 10_240,
        "text": {"files": [str(tmp_path / "de.txt")]},
        "dictionaries": [str(tmp_path / "en-de.txt")],
    }
    return tiny_recipe(
        tmp_path / "data",
        languages={"en": recipe.languages["en"].model_dump(), "de": german},
        data={
            "tokenizer": {"ranks": str(recipe.data.dir / "tokenizer" / "ranks.tiktoken"), "vocab_size": 600},
            "heldout_fraction": 0.4,
        },
        model={"context": 8},
        lexicon=lexicon,
    )


def states(recipe: Recipe) -> dict[str, str]:
    """Folder name -> built or kept."""
    return {Path(line.split()[1]).name: line.split()[0] for line in prepared(recipe)}


def test_a_changed_dictionary_leaves_stores_and_counts(tmp_path: Path, recipe: Recipe) -> None:
    prepared(with_dictionary(tmp_path, recipe, "woman Frau\n"))
    changed = states(with_dictionary(tmp_path, recipe, "woman Frau\nevening Abend\n"))
    built = {name for name, state in changed.items() if state == "built"}
    assert built == {"translations", "lexicon", "coverage", "codeswitch"}
    same_table = states(with_dictionary(tmp_path, recipe, "woman Frau\nevening Abend\nnowherefound nichts\n"))
    assert {name for name, state in same_table.items() if state == "built"} == {"translations", "lexicon", "coverage"}


def test_no_heldout_word_is_in_what_training_reads(tmp_path: Path, recipe: Recipe) -> None:
    """Neither side of any pair of the compiled table is spelled as a word of the held-out list, in any case."""
    data = open_data(recipe)
    words = [line.split("\t")[0] for line in (recipe.data.dir / "words" / "words.tsv").read_text().splitlines()]
    # every word has a translation of its own, and shares one with its neighbour
    content = "".join(f"{word} T{word}\n{word} Shared{number // 2}x\n" for number, word in enumerate(words[:3000]))
    content = "".join(filter(lambda line: not any(c.isdigit() for c in line), content.splitlines(keepends=True)))
    content += "".join(f"{word} {words[number + 1].upper()}\n" for number, word in enumerate(words[:3000:2]))
    changed = with_dictionary(tmp_path, recipe, content, heldout_fraction=0.3)
    prepared(changed)
    heldout = [json.loads(line) for line in (changed.data.dir / "heldout_words" / "heldout.jsonl").open()]
    assert len(heldout) > 50
    forbidden = {entry["word"].lower() for entry in heldout}
    forbidden |= {word.lower() for entry in heldout for words_ in entry["translations"].values() for word in words_}
    lexicon = open_data(changed).lexicon
    assert lexicon is not None
    assert len(lexicon) > 500
    used = set()
    for surface in range(len(lexicon.surface_language)):
        first, last = lexicon.form_offsets[6 * surface], lexicon.form_offsets[6 * surface + 1]
        used.add(data.tokenizer.decode(lexicon.form_tokens[first:last]).strip().lower())
    assert used.isdisjoint(forbidden)
    everything = {line.split()[0] for line in content.splitlines()}
    assert {entry["word"] for entry in heldout} <= everything
    report = json.loads((changed.data.dir / "coverage" / "coverage.json").read_text())
    assert report["languages"]["de"]["dropped"]["held out"]["pairs"] > len(heldout)


def test_source_without_spaces_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "data")
    english = {**recipe.languages["en"].model_dump(), "space_prefix": False}
    languages = {"en": english, "clone": recipe.languages["clone"].model_dump()}
    with pytest.raises(UserError, match="source_language: found 'en', which is written without spaces"):
        prepared(tiny_recipe(tmp_path / "data", languages=languages))


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path, recipe: Recipe) -> None:
    again = tiny_recipe(tmp_path / "data")
    prepared(again)
    assert open_data(again).fingerprint == open_data(recipe).fingerprint


def test_repeated_documents_are_dropped(tmp_path: Path) -> None:
    lines = (SAMPLE_TEXT / "northanger_abbey.jsonl").read_text().splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join(lines + lines) + "\n")
    text = {"tokens": 40_960, "text": {"files": [str(tmp_path / "twice.jsonl")]}}
    recipe = tiny_recipe(tmp_path / "data", languages={"en": text})
    prepared(recipe)
    facts = open_data(recipe).artefacts["en"].facts
    assert facts["repeated_documents"] == len(lines)


def test_given_ranks_and_a_dictionary(tmp_path: Path, recipe: Recipe) -> None:
    """A user's own ranks, text in two languages, and a word list."""
    changed = with_dictionary(tmp_path, recipe, "woman Frau\nevening Abend\nevening Abend\nbook\tBuch\n")
    prepared(changed)
    data = open_data(changed)
    entries = [json.loads(line) for line in (tmp_path / "data" / "lexicon" / "lexicon.jsonl").open()]
    assert {entry["word"]: entry["translations"]["de"] for entry in entries} == {
        "woman": ["Frau"],
        "evening": ["Abend"],
        "book": ["Buch"],
    }
    assert entries[0]["sources"] == {"de": [{"en-de.txt": 0}]}
    facts = data.artefacts["codeswitch"].facts
    assert 0 < facts["in_table"] < facts["words"] / 50


def test_a_clone_at_word_level(tmp_path: Path, recipe: Recipe) -> None:
    """The same documents as at token level, with every word exchanged; the table aligns each word with its clone."""
    languages = recipe.model_dump(mode="json")["languages"]
    languages = {"clone": languages["clone"] | {"clone_level": "word"}, "en": languages["en"]}
    words = tiny_recipe(tmp_path / "data", languages=languages)
    assert [line.split()[0] for line in prepared(words)] == ["built"] * 9
    assert [line.split()[0] for line in prepared(words)] == ["kept"] * 9
    data, tokens = open_data(words), open_data(recipe)
    table = data.clone_tokenizer.words["clone"]
    for split in SPLITS:
        store = TokenStore(words.data.dir / "clone" / split)
        assert (store.tokens >= 600).all()
        text = data.tokenizer.decode(store.tokens.astype(int) - 600)
        original = TokenStore(recipe.data.dir / "clone" / split).tokens.astype(int) - 600
        assert text != tokens.tokenizer.decode(original)
        ends = "<|endoftext|>"  # not a part of the text
        documents = [table.to_original(document) for document in text.split(ends)]
        assert ends.join(documents) == tokens.tokenizer.decode(original)
        shown = data.clone_tokenizer.decode(store.tokens)
        assert encode_shown(data.clone_tokenizer, shown).tolist() == store.tokens.tolist()
    changed = sum(word != clone for word, clone in table.table.items())
    assert changed > 0.9 * data.artefacts["lexicon"].facts["source_words"]
    entries = [json.loads(line) for line in (words.data.dir / "lexicon" / "lexicon.jsonl").open()]
    assert all(entry["translations"]["clone"] == [table.to_clone(entry["word"])] for entry in entries)
    with pytest.raises(UserError, match=r"clone: made with clone words \w+; the recipe and its other data have None"):
        open_data(tiny_recipe(tmp_path / "data"))
    languages["clone"]["clone_seed"] = 1
    prepared(tiny_recipe(tmp_path / "data", languages=languages))
    assert open_data(words).clone_tokenizer.words["clone"].table != table.table


def test_extra_texts(tmp_path: Path, recipe: Recipe) -> None:
    """They leave all else as it was; English ones are switched, a clone's are written in the clone."""
    (tmp_path / "facts.txt").write_text("The Zorblax lives in Bath.\n\nCatherine was born in the abbey.")
    text = {"text": {"files": [str(tmp_path / "facts.txt")]}, "tokens": 512, "active": [3, 9]}
    languages = recipe.model_dump(mode="json")["languages"]
    with_facts = tiny_recipe(
        tmp_path / "data",
        languages={
            "en": languages["en"] | {"sources": {"facts": text}},
            "clone": languages["clone"] | {"sources": {"facts": text}},
        },
    )
    prepared(tiny_recipe(tmp_path / "data"))
    assert [line.split()[0] for line in prepared(with_facts)] == ["kept"] * 3 + ["built"] * 2 + ["kept"] * 5 + ["built"]
    data = open_data(with_facts)
    data.verify()
    assert data.fingerprint_of(align_stage(recipe)) == open_data(recipe).fingerprint
    assert data.fingerprint != open_data(recipe).fingerprint
    english, clone = data.streams(code_switch=True)[2:]
    whole = "The Zorblax lives in Bath.<|endoftext|>Catherine was born in the abbey.<|endoftext|>"
    assert data.tokenizer.decode(english.store.tokens) == whole
    assert (clone.store.tokens.astype(int) - 600).tolist() == english.store.tokens.tolist()
    assert english.windows == -(-len(english.store) // 32)
    dataset = StageDataset(data.streams(code_switch=True), pretrain_mixture(with_facts), seed=3)
    (batch,) = dataset[dataset.locate(np.arange(dataset.mixture.samples)), dataset.mixture.samples]
    rows = np.split(batch.inputs.numpy(), np.cumsum(np.bincount(batch.sources, minlength=len(recipe.sources)))[:-1])
    assert [len(part) for part in rows] == [1280, 320, 16, 16]
    assert (rows[2] >= 600).any()  # some words of the facts were switched
    assert set(np.unique(rows[3])) == set(np.unique(clone.store.tokens))  # every token of the facts is read


def pretrain_mixture(recipe: Recipe) -> Mixture:
    return pretrain_plan(recipe, Account.empty(recipe)).mixture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no document with text"),
        ("\n\n \n\n", "no document with text"),
        ("one document", "none of 1 documents went to the (train|dev|test) split"),
        (None, "no file matches"),
        ("\n\n".join(str(number) for number in range(100)), "none of the 0 words"),
    ],
    ids=["empty", "blank", "one document", "missing", "no words"],
)
def test_hopeless_input_is_one_line_and_leaves_nothing(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    languages = {
        "en": {"tokens": 1024, "text": {"files": [str(path)]}},
        "clone": {"tokens": 1024, "clone_of": "en", "clone_share": 0.4},
    }
    vocab_size = 2048 if content is not None and not content.strip() else 257
    with pytest.raises(UserError, match=message) as caught:
        prepared(tiny_recipe(tmp_path / "data", languages=languages, data={"tokenizer": {"vocab_size": vocab_size}}))
    assert "\n" not in str(caught.value)
    leftovers = [path.name for path in (tmp_path / "data").iterdir() if path.name != ".lock"]
    assert not [name for name in leftovers if name.startswith(".") and name != ".input_hashes.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dictionaries": ["none.tsv"]}, "languages.*.dictionaries: no such file 'none.tsv'"),
        ({"sources": {"news": {"tokens": 1024, "text": {"files": ["none/*.txt"]}}}}, "no file matches 'none/*.txt'"),
        ({}, "facts.per_frequency: found 3; expected at least 32, 4 for each of 8 relations"),
    ],
)
def test_what_is_missing_is_refused_before_anything_is_built(tmp_path: Path, changes: dict, message: str) -> None:
    text = {"files": [str(SAMPLE_TEXT / "northanger_abbey.jsonl")]}
    languages = {"en": {"tokens": 40_960, "text": text}, "de": {"tokens": 10_240, "text": text} | changes}
    facts = {"periods": 1, "per_frequency": 3} if not changes else None
    lines: list[str] = []
    with pytest.raises(UserError) as error:
        prepare(tiny_recipe(tmp_path / "data", languages=languages, facts=facts), lines.append)
    assert message in str(error.value)
    assert lines == []


def test_few_heldout_tokens_are_pointed_out(tmp_path: Path) -> None:
    values = {"heldout_fraction": 0.1, "dir": str(tmp_path / "data")}
    lines = prepared(tiny_recipe(tmp_path / "data", data=values, model={"context": 2048}))
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 2
    assert "note: languages.clone: " in notes[1]
    assert "tokens of dev or test, less than 10 samples, are few to measure on" in notes[1]
    assert not any(line.startswith("note") for line in prepared(tiny_recipe(tmp_path / "data", data=values)))


def test_a_dictionary_that_is_still_to_be_made_of_the_prepared_text(tmp_path: Path) -> None:
    path = tmp_path / "data" / "llm" / "llm-de.tsv"
    text = {"files": [str(SAMPLE_TEXT / "northanger_abbey.jsonl")]}
    german = {"tokens": 10_240, "text": text, "dictionaries": [str(path)]}
    recipe = tiny_recipe(tmp_path / "data", languages={"en": {"tokens": 40_960, "text": text}, "de": german})
    lines: list[str] = []
    with pytest.raises(UserError, match=r"no such file '.*llm-de.tsv'; expected .* launchers/translate.py writes one"):
        prepare(recipe, lines.append)
    assert any("words (word counts)" in line for line in lines)


def test_mismatched_recipe_is_refused_when_opened(recipe: Recipe) -> None:
    dir_ = recipe.data.dir
    with pytest.raises(UserError, match=r"vocab_size: found 700; .* holds 600"):
        open_data(tiny_recipe(dir_, data={"tokenizer": {"vocab_size": 700}}))
    extra = {**recipe.model_dump()["languages"], "xx": {"tokens": 10, "clone_of": "en"}}
    with pytest.raises(UserError, match="made with vocab_size 1200; the recipe and its other data have 1800"):
        open_data(tiny_recipe(dir_, languages=extra))
    with pytest.raises(UserError, match=r"expected at least model\.context=1000000"):
        open_data(tiny_recipe(dir_, model={"context": 1_000_000}))
    with pytest.raises(UserError, match="no such tokenizer; run launchers/prepare"):
        open_data(tiny_recipe(dir_ / "nowhere"))


def test_two_preparations_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    import fcntl

    recipe = tiny_recipe(tmp_path / "data")
    recipe.data.dir.mkdir()
    with (recipe.data.dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another preparation"):
            prepared(recipe)


def test_text_without_spaces_trains_the_tokenizer_in_part_at_its_whole_weight(tmp_path: Path) -> None:
    """Every eighth or so of its characters is taken; the tokenizer still learns what the text is made of."""
    words = ["世界", "朋友", "今天", "老师"]
    documents = ["".join(words[(number + place) % 4] for place in range(9)) + str(number) for number in range(400)]
    (tmp_path / "zh.txt").write_text("\n\n".join(documents))
    chinese = {"tokens": 10_240, "text": {"files": [str(tmp_path / "zh.txt")]}}
    recipe = tiny_recipe(tmp_path / "data", languages={"en": tiny_recipe(tmp_path).languages["en"].model_dump()})
    recipe = tiny_recipe(
        tmp_path / "data", languages=recipe.model_dump(mode="json")["languages"] | {"zh": chinese}, model={"context": 8}
    )
    texts = list(_as_if_more(iter(documents)))
    assert len(texts) == pytest.approx(len(documents), rel=0.1)
    assert len(set(texts)) == pytest.approx(len(documents) / 8, rel=0.1)
    prepared(recipe)
    tokenizer = open_data(recipe).tokenizer
    assert all(len(tokenizer.encode(word)) == 1 for word in words)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written stays; with room the same command goes on and gives what an undisturbed one gives."""
    monkeypatch.setattr(text_stores, "_BATCH_CHARACTERS", 20_000)
    monkeypatch.setattr(text_stores, "_SECONDS_BETWEEN_COMMITS", 0.0)
    recipe = tiny_recipe(tmp_path / "data", data={"shard_tokens": 20_000})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(UserError, match=r"data/en: cannot be written \(File too large\); free space") as caught:
            prepared(recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    progress = json.loads((recipe.data.dir / ".en.partial" / text_stores.PROGRESS).read_text())
    assert progress["batches"] > 0
    prepared(recipe)
    again = tiny_recipe(tmp_path / "undisturbed", data={"shard_tokens": 20_000})
    prepared(again)
    assert open_data(recipe).fingerprint == open_data(again).fingerprint
