"""What becomes of what dictionaries write, and why words are left out."""

import pytest

from prealign.config.languages import language_traits
from prealign.config.texts import LanguageConfig
from prealign.lexicon.cleaning import REASONS, Cleaner, Dropped


def cleaner(name: str, max_words: int = 1, **facts: object) -> Cleaner:
    return Cleaner(LanguageConfig(tokens=1, clone_of="x", **(language_traits(name) | facts)), max_words)


@pytest.mark.parametrize(
    ("language", "raw", "word"),
    [
        ("de", "Klavier {n} [mus.]; ", "Klavier"),
        ("de", "Abfahrt {f} /Abf./", "Abfahrt"),
        ("de", "der Hund", "Hund"),
        ("de", "<b>Haus</b> (Geb&auml;ude (alt))", "Haus"),
        ("de", "Stra\u00adße", "Straße"),
        ("de", "Ku\u0308che", "Küche"),
        ("de", "U-Bahn", "U-Bahn"),
        ("de", "Wald – kein Forst", "Wald"),
        ("de", "„Wort“!", "Wort"),
        ("de", "Kette (offen", "Kette"),
        ("en", "to eat", "eat"),
        ("ru", "соба́ка", "собака"),
        ("ru", "чёрный", "чёрный"),
        ("ru", "йод", "йод"),
        ("ar", "كَلْب", "كلب"),
        ("ar", "كتـــاب", "كتاب"),
        ("ar", "\u200fكتاب\u200e", "كتاب"),
        ("zh", "钢琴（乐器）", "钢琴"),
        ("unlisted", "κόσμος", "κόσμος"),
    ],
)
def test_words_as_text_has_them(language: str, raw: str, word: str) -> None:
    assert cleaner(language).clean(raw) == (word, "")


@pytest.mark.parametrize(
    ("language", "raw", "reason"),
    [
        ("de", "(veraltet)", "empty"),
        ("de", " ", "empty"),
        ("de", "Luft-", "affix"),
        ("de", "Breiten…", "affix"),
        ("de", "-los", "affix"),
        ("de", "etw.", "abbreviation"),
        ("de", "hell sein", "several words"),
        ("de", "собака", "script"),
        ("zh", "T恤", "script"),
        ("ru", "cобака", "script"),
        ("de", "CO2-Gehalt", "characters"),
        ("de", "und/oder", "characters"),
        ("zh", "多人一起吃饭的一种习惯", "length"),
        ("de", "a" * 41, "length"),
    ],
)
def test_reasons(language: str, raw: str, reason: str) -> None:
    assert cleaner(language).clean(raw) == ("", reason)
    assert reason in REASONS


def test_several_words_by_config() -> None:
    assert cleaner("de", max_words=2).clean("hell  sein") == ("hell sein", "")
    assert cleaner("de", max_words=2).clean("sehr hell sein") == ("", "several words")


def test_a_language_of_several_scripts() -> None:
    japanese = cleaner("ja", scripts=["Han", "Hiragana", "Katakana"])
    assert japanese.clean("コーヒー") == ("コーヒー", "")
    assert japanese.clean("食べる") == ("食べる", "")
    assert japanese.clean("커피") == ("", "script")


def test_keys_ignore_case_and_optional_marks() -> None:
    assert cleaner("ru").key("Соба́ка") == "собака"
    assert cleaner("de").key("Ku\u0308che") == cleaner("de").key("KÜCHE")


def test_dropped_keeps_the_first_examples() -> None:
    dropped = Dropped()
    for number in range(20):
        dropped.add("script", f"w{number}", "x")
    dropped.add("empty", "a", "b")
    assert dropped.as_dict() == {
        "empty": {"pairs": 1, "examples": ["a = b"]},
        "script": {"pairs": 20, "examples": [f"w{number} = x" for number in range(5)]},
    }
