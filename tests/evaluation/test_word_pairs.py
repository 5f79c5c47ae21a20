"""Word pairs: every translation is there, vectors are Eq. 1 of the paper, held-out words are those of the list."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prealign.data.prepared import open_data
from prealign.evaluation.results import NotMeasured
from prealign.evaluation.word_pairs import draw_pairs, heldout_lexicon, word_vectors
from prealign.lexicon.table import read_table
from prealign.model.layout import Group, Layout
from prealign.preparation.pipeline import prepare
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with several translations a word and words that are kept out of it; returns its data folder."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ["morning", "evening", "carriage", "letter", "abbey", "gallery", "sister", "brother", "walking", "window"]
    lines = [f"{word}\t{part}{word[::-1]}" for word in words for part in ("ge", "ver")]
    (folder / "en-de.tsv").write_text("\n".join([*lines, "house\tvergninrom"]) + "\n")
    (folder / "de.txt").write_text(
        "\n\n".join(f"{'gegninrom ' * number}vergninrom egairrac" for number in range(1, 41))
    )
    prepare(recipe_of(folder), say=lambda line: None)
    return folder


def recipe_of(folder: Path):
    base = tiny_recipe(folder / "data").model_dump(mode="json")["languages"]["en"]
    german = {"tokens": 1000, "text": {"files": [str(folder / "de.txt")]}, "dictionaries": [str(folder / "en-de.tsv")]}
    return tiny_recipe(
        folder / "data",
        languages={"en": base, "clone": {"tokens": 1000, "clone_of": "en", "clone_share": 0.2}, "de": german},
        lexicon={"heldout_fraction": 0.3},
        data={"dir": str(folder / "data"), "heldout_fraction": 0.1, "tokenizer": {"vocab_size": 600}},
    )


def test_all_translations_of_the_drawn_words(data_dir: Path) -> None:
    data = open_data(tiny_recipe(data_dir))
    assert data.whole_lexicon is not None
    pairs = draw_pairs(data.whole_lexicon, "clone", 50)
    assert len(pairs.sources) == 50
    assert len(set(pairs.sources.tolist())) == 50
    assert len(draw_pairs(data.whole_lexicon, "clone", 10**9).sources) == len(data.whole_lexicon)


def test_vectors_of_words(data_dir: Path) -> None:
    """Each word alone through the model, mean over its tokens, unit length."""
    recipe = tiny_recipe(data_dir)
    data, model = open_data(recipe), model_of(recipe)
    lexicon = data.whole_lexicon
    assert lexicon is not None
    surfaces = np.array([5, 300, 1, len(lexicon) + 7])
    found = word_vectors(model, lexicon, surfaces, ONE.device)
    for place, surface in enumerate(surfaces):
        form = 6 * surface + lexicon.usual_form[surface]
        ids = torch.from_numpy(lexicon.form_tokens[lexicon.form_offsets[form] : lexicon.form_offsets[form + 1]]).long()
        hidden, _ = model.gpt(ids, torch.arange(len(ids)), Layout((Group(1, len(ids)),)))
        expected = {0: model.gpt.embedding.tokens.weight[ids], 2: hidden, 3: model.head.weight[ids]}
        for layer, vectors in expected.items():
            torch.testing.assert_close(found[layer, place], F.normalize(vectors.mean(0), dim=0), atol=1e-5, rtol=1e-4)


def test_heldout_words_are_those_of_the_list(real: Path) -> None:
    recipe = recipe_of(real)
    data = open_data(recipe)
    lexicon = heldout_lexicon(data)
    entries = list(read_table(data.artefacts["heldout_words"].folder / "heldout.jsonl"))
    assert len(lexicon) == len(entries) > 10
    pairs = draw_pairs(lexicon, "clone", 10**9)
    for source, target in pairs.pairs[:20]:
        word, clone = (
            lexicon.form_tokens[lexicon.form_offsets[6 * s] : lexicon.form_offsets[6 * s + 1]]
            for s in (pairs.sources[source], pairs.targets[target])
        )
        assert (clone == word + recipe.token_offset("clone")).all()
        assert data.tokenizer.decode(word) == entries[pairs.sources[source]].word


def test_several_translations_are_all_gold(real: Path) -> None:
    lexicon = open_data(recipe_of(real)).whole_lexicon
    assert lexicon is not None
    pairs = draw_pairs(lexicon, "de", 10**9)
    assert len(pairs.first_pairs) == len(pairs.sources)
    assert len(pairs.pairs) > len(pairs.sources)
    assert set(pairs.pairs[:, 1]) == set(range(len(pairs.targets)))


def test_nothing_held_out(data_dir: Path) -> None:
    with pytest.raises(NotMeasured, match="heldout_fraction"):
        heldout_lexicon(open_data(tiny_recipe(data_dir)))
