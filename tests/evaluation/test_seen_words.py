"""Losses of seen and unseen words against a count over the decoded text."""

from pathlib import Path

import numpy as np
import pytest

from prealign.data.prepared import open_data
from prealign.evaluation.results import NotMeasured
from prealign.evaluation.seen_words import seen_and_unseen
from prealign.lexicon.table import read_table
from prealign.stores.word_map import WordMap
from tests.conftest import tiny_recipe


@pytest.mark.parametrize("language", ["en", "clone"])
@pytest.mark.parametrize("count", [333, 10**9])
def test_words_of_the_table(data_dir: Path, language: str, count: int) -> None:
    recipe = tiny_recipe(data_dir, lexicon={"top_fraction": 0.1})
    data = open_data(recipe)
    store = data.heldout(language)
    count = min(count, len(store) - 1)
    nats = np.random.default_rng(0).random(count)
    found = seen_and_unseen(data, language, nats)

    entries = list(read_table(data_dir / "lexicon" / "lexicon.jsonl"))
    table = {entry.word for entry in entries[: round(0.1 * len(entries))]}
    local = store.tokens.astype(int) - recipe.token_offset(language)
    starts, ends, _, _ = WordMap(data_dir / language / "dev.words").between(0, len(store))
    expected = {"seen": [0.0, 0, 0], "unseen": [0.0, 0, 0]}
    for start, end in zip(starts.tolist(), ends.tolist()):
        written = data.tokenizer.decode(local[start:end]).removeprefix(" ")
        usual = written in {written.lower(), written.lower().capitalize(), written.upper()}
        if start >= 1 and end <= count + 1:
            kind = expected["seen" if usual and written.lower() in table else "unseen"]
            kind[0] += sum(nats[start - 1 : end - 1])
            kind[1] += end - start
            kind[2] += 1
    for kind, (loss, tokens, words) in expected.items():
        assert found[kind].nats == pytest.approx(loss)
        assert (found[kind].tokens, found[kind].words) == (tokens, words)
        assert words > 30
        assert found[kind].perplexity == pytest.approx(np.exp(loss / tokens))


def test_no_words_no_perplexity(data_dir: Path) -> None:
    found = seen_and_unseen(open_data(tiny_recipe(data_dir)), "en", np.zeros(1))
    assert found["unseen"].perplexity is None


def test_languages_without_spaces_are_skipped(data_dir: Path) -> None:
    data = open_data(tiny_recipe(data_dir))
    clone = data.recipe.languages["clone"].model_copy(update={"space_prefix": False})
    changed = data.recipe.model_copy(update={"languages": data.recipe.languages | {"clone": clone}})
    data.__dict__["recipe"] = changed
    with pytest.raises(NotMeasured, match="without spaces"):
        seen_and_unseen(data, "clone", np.zeros(10))
