"""The page lists every setting of the align stage, and where its loss differs from the paper's."""

import pytest

from prealign.config import load_recipe
from prealign.config.training import AlignConfig
from prealign.suites.differences import differences, loss_notes

CHANGES = {
    "learning_rate": "1e-3",
    "min_learning_rate": "1e-6",
    "warmup": "0.25",
    "fraction": "0.07",
    "global_batch_size": "16",
    "coverage": "5",
    "words_per_step": "64",
    "sampling": "uniform",
    "max_translations": "2",
    "tau": "0.07",
    "weight": "0.9",
    "anchors": "source",
    "anchor_fraction": "0.5",
    "layers": "all",
    "siblings": "negative",
    "include_self": "true",
    "layer_reduce": "mean",
    "final_norm": "false",
}


def said(*changes: str) -> list[str]:
    recipe = load_recipe("suites/recipes/demo", list(changes))
    return [*map(" | ".join, differences(recipe)), *loss_notes(recipe)]


@pytest.mark.parametrize("key", AlignConfig.model_fields)
def test_every_setting_of_the_align_stage_is_listed(key: str) -> None:
    changes = [f"align.{key}={CHANGES[key]}", *(["align.words_per_step=null"] if key == "coverage" else [])]
    assert said(*changes) != said()


def test_the_demo_beside_the_paper() -> None:
    lines = said()
    for line in (
        "aligning: layers in the loss | all | 0, 5 of 0 to 5 (0 and 5: embeddings)",
        "aligning: weight of the loss | 1 | 0.3, sum over layers",
        "aligning: temperature tau | not stated | 0.1",
        "aligning: rate | not stated | 0.0045 to 0.0003",
        "aligning: warmup | not stated | 50 % of the steps",
        "aligning: words, translations included | not stated | 512 a step",
        "aligning: how source words are drawn | not stated | by their count to the power 0.5",
        "words held out of the table | not stated | none",
    ):
        assert line in lines
    notes = " ".join(lines)
    for note in ("There is no option for that sum", "a translation is an anchor as well", "after the final norm"):
        assert note in notes


def test_what_does_not_differ_is_no_note() -> None:
    notes = " ".join(said("align.anchors=source", "align.include_self=true", "lexicon.heldout_fraction=0.1"))
    for absent in ("as an anchor as well", "align.include_self", "align.siblings", "No words are held out"):
        assert absent not in notes
    assert "words held out of the table | not stated | 10 %" in notes
    kept = said("pretrain.align_every=4", "align.coverage=4", "align.words_per_step=null")
    assert "word batches in pretraining | none | in one of 4 steps" in kept
    assert any(line.endswith("as many a step as draw each word of the table 4.0 times") for line in kept)
