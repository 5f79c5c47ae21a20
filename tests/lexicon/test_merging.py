"""Several dictionaries become one table that says where each pair comes from."""

import json

from prealign.config.languages import language_traits
from prealign.config.texts import LanguageConfig
from prealign.lexicon.cleaning import Cleaner
from prealign.lexicon.dictionaries import Pair
from prealign.lexicon.merging import Merger


def merger(*targets: str) -> Merger:
    cleaners = {
        name: Cleaner(LanguageConfig(tokens=1, clone_of="x", **language_traits(name)), max_words=1)
        for name in ("en", *targets)
    }
    return Merger(cleaners["en"], {name: cleaners[name] for name in targets})


COUNTS = [("light", 9, 0), ("piano", 5, 1), ("rare", 1, 0), ("untranslated", 7, 0)]


def test_agreement_then_rank_then_order() -> None:
    tables = merger("de")
    tables.add("one", [Pair("de", "piano", "Piano", 0), Pair("de", "to piano", "Flügel", 1)])
    tables.add("two", [Pair("de", "Piano", "klavier", 0), Pair("de", "piano", "Flügel", 3)])
    tables.add("three", [Pair("de", "piano", "Klavier", 4), Pair("de", "piano", "Flügel", 2)])
    (entry,) = tables.join(COUNTS, [], min_count=1)
    assert (entry.word, entry.count, entry.case) == ("piano", 5, 1)
    assert entry.translations == {"de": ["Flügel", "klavier", "Piano"]}
    assert entry.sources == {"de": [{"one": 1, "two": 3, "three": 2}, {"two": 0, "three": 4}, {"one": 0}]}


def test_everything_read_is_kept_or_dropped_for_a_reason() -> None:
    tables = merger("de", "zh")
    pairs = [
        Pair("de", "light", "Licht", 0),
        Pair("de", "Light", "LICHT", 2),
        Pair("de", "light", "hell sein", 1),
        Pair("de", "absent", "fehlt", 0),
        Pair("de", "two words", "zwei", 0),
        Pair("de", "don't", "nicht", 0),
        Pair("zh", "light", "光", 0),
        Pair("zh", "light", "light", 1),
    ]
    tables.add("d", pairs)
    (entry,) = tables.join(COUNTS, [], min_count=1, max_translations=1)
    assert entry.translations == {"de": ["Licht"], "zh": ["光"]}
    german = {reason: what["pairs"] for reason, what in tables.dropped["de"].as_dict().items()}
    assert german == {"source is not a word": 2, "not in the text": 1, "several words": 1, "repeated": 1}
    assert tables.dropped["zh"].as_dict() == {"script": {"pairs": 1, "examples": ["light = light"]}}
    assert tables.read == {"de": {"d": {"read": 6, "kept": 2}}, "zh": {"d": {"read": 2, "kept": 1}}}


def test_clones_and_rare_words() -> None:
    tables = merger("de")
    tables.add("d", [Pair("de", "rare", "selten", 0), Pair("de", "light", "Licht", 0)])
    entries = list(tables.join(COUNTS, ["clone"], min_count=2))
    assert [entry.word for entry in entries] == ["light", "piano", "untranslated"]
    assert entries[0].translations == {"clone": ["light"], "de": ["Licht"]}
    assert entries[1].translations == {"clone": ["piano"]}
    assert "clone" not in entries[0].sources


def test_what_an_apostrophe_leaves_is_no_word() -> None:
    """ "I'll" and "don't" are no reason to write what a dictionary gives for "ll" and "don"."""
    tables = merger("de")
    tables.add("d", [Pair("de", "ll", "von", 0), Pair("de", "Don", "anziehen", 0), Pair("de", "light", "Licht", 0)])
    counts = [("ll", 9, 0), ("light", 5, 0), ("don", 5, 0)]
    assert [entry.word for entry in tables.join(counts, [], min_count=1)] == ["light"]
    assert tables.dropped["de"].counts == {"fragment": 2}


def test_half_a_surrogate_pair_is_left_out_and_can_be_written() -> None:
    tables = merger("de")
    tables.add("d", [Pair("de", "light", "Li\ud800cht", 0), Pair("de", "piano", "Klavier", 0)])
    assert [entry.word for entry in tables.join(COUNTS, [], min_count=1)] == ["piano"]
    assert tables.dropped["de"].as_dict() == {"characters": {"pairs": 1, "examples": ["light = Li?cht"]}}
    json.dumps(tables.dropped["de"].as_dict(), ensure_ascii=False).encode()


def test_translations_that_too_many_words_share_are_left_out() -> None:
    """A label that a dictionary's reader took for a word; the next best translation comes in its place."""
    tables = merger("ru", "de")
    words = ["light", "piano", "rare"]
    tables.add("d", [Pair("ru", word, "от", 0) for word in words] + [Pair("ru", "light", "свет", 1)])
    tables.add("e", [Pair("de", word, "von", 0) for word in words[:2]])
    entries = {e.word: e for e in tables.join(COUNTS, [], min_count=1, max_translations=1, max_sources=2)}
    assert {word: entry.translations for word, entry in entries.items()} == {
        "light": {"ru": ["свет"], "de": ["von"]},
        "piano": {"de": ["von"]},
    }
    assert tables.dropped["ru"].counts == {"shared by too many": 3}
    assert not tables.dropped["de"].counts


def test_best_translations_only() -> None:
    tables = merger("de")
    tables.add("d", [Pair("de", "light", word, rank) for rank, word in enumerate(["Licht", "hell", "leicht"])])
    (entry,) = tables.join(COUNTS, [], min_count=1, max_translations=2)
    assert entry.translations == {"de": ["Licht", "hell"]}
    assert tables.dropped["de"].counts == {"beyond the best": 1}
