"""The coverage report counts words, occurrences and translations as a reader would."""

import json
from pathlib import Path

from prealign.lexicon.coverage import add_dropped, coverage_lines, measure_coverage, measure_target_text
from prealign.lexicon.table import Entry

COUNTS = [("the", 60, 0), ("piano", 30, 0), ("book", 9, 0), ("rare", 1, 0)]
ENTRIES = [
    Entry("the", 60, 0, {"de": ["der", "die"], "zh": ["这"]}),
    Entry("book", 9, 0, {"de": ["Buch"]}),
    Entry("rare", 1, 0, {"de": ["die"]}),
]


def test_coverage(tmp_path: Path) -> None:
    report = measure_coverage(COUNTS, ENTRIES, ["de", "zh"])
    assert report["source"] == {"types": 4, "tokens": 100}
    german = report["languages"]["de"]
    assert (german["types"], german["types_share"], german["tokens"], german["tokens_share"]) == (3, 0.75, 70, 0.7)
    assert (german["pairs"], german["translations_per_word"]) == (4, 1.3333)
    assert german["translations_per_occurrence"] == round(130 / 70, 4)
    assert german["words_with"] == {"1": 2, "2": 1}
    assert german["most_shared"]["die"] == 2
    assert german["uncovered"] == ["piano"]
    assert report["languages"]["zh"]["tokens_share"] == 0.6
    assert (report["all languages"]["types"], report["any language"]["tokens"]) == (1, 70)

    add_dropped(report, {"de": {"d": {"read": 5, "kept": 4}}}, [{"de": {"script": {"pairs": 1, "examples": []}}}, {}])
    report["languages"]["zh"]["target_text"] = {"needs": "jieba"}
    (tmp_path / "coverage.json").write_text(json.dumps(report))
    text = "\n".join(coverage_lines(tmp_path / "coverage.json"))
    assert "70.0%" in text
    assert "1 script" in text
    assert "pip install jieba" in text
    report["languages"]["de"]["target_text"] = {"tokens_share": 0.5, "compatibility_share": 0.25}
    (tmp_path / "coverage.json").write_text(json.dumps(report))
    text = "\n".join(coverage_lines(tmp_path / "coverage.json"))
    assert "25.0% of the words of its text have presentation forms" in text
    assert "languages.de.text.normalize=nfkc" in text


def test_target_text() -> None:
    counts = [("die", 6), ("buch", 3), ("unbekannt", 1)]
    found = measure_target_text(counts, ENTRIES, "de", str.lower)
    shares = {"types": 3, "types_share": 0.6667, "tokens": 10, "tokens_share": 0.9}
    assert found == shares | {"compatibility_share": 0.0}
    assert measure_target_text([("\ufef7", 2), ("die", 6)], ENTRIES, "de", str.lower)["compatibility_share"] == 0.25


def test_empty_text() -> None:
    report = measure_coverage([], [], ["de"])
    assert report["languages"]["de"]["tokens_share"] == 0.0
