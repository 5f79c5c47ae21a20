"""What a model card says of measurements: those of its weights, and nothing where there are none."""

import json
from pathlib import Path

import pytest

from prealign.evaluation.loading import FoundWeights
from prealign.evaluation.results import results_path, write_results
from prealign.interop.architectures import architecture_of
from prealign.interop.card import model_card, other_results
from tests.conftest import tiny_recipe

METRICS = {
    "lm": {
        "en": {"perplexity": 54.84, "bits_per_byte": 1.76, "tokens": 40_000, "words": {"skipped": "no table"}},
        "clone": {"skipped": "there is no held-out text"},
    },
    "alignment": {"skipped": "there is no alignment table"},
    "facts": {
        "over_periods": {
            "panels": {
                "en -> clone": {
                    "f20": {"accuracy": 0.39, "interval": [0.28, 0.51], "facts": 64},
                    "pooled": {"accuracy": 0.39, "interval": [0.28, 0.51], "facts": 64},
                }
            }
        },
        "now": {"panels": {}},
    },
}


def found(identity: str = "these") -> FoundWeights:
    return FoundWeights("pretrain", 461, Path("nowhere"), identity, lambda name, shape: None, "")  # type: ignore[arg-type, return-value]


def card(run: Path, identity: str = "these") -> str:
    recipe = tiny_recipe(run / "data")
    return model_card(recipe, run, found(identity), architecture_of(recipe.model, recipe.padded_vocab_size), {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that `evaluate.py` has measured."""
    record = {"identity": "these", "date": "2026-01-02T03:04:05+00:00", "command": "evaluate.py --run runs/a"}
    write_results(results_path(tmp_path / "evaluation", "pretrain", 461), record | {"metrics": METRICS})
    return tmp_path


def test_measurements_are_shown_with_their_command(run: Path) -> None:
    text = card(run)
    assert (
        "held-out text (`test`). By `launchers/evaluate.py`, the last time on 2026-01-02 as `evaluate.py --run" in text
    )
    assert "| perplexity | en | 54.84 | 40,000 tokens |" in text
    assert "| facts, f20 | en -> clone | 39.0 % | 95 % interval over 64 facts 28.0 to 51.0; chance 25 % |" in text
    assert "skipped" not in text
    assert other_results(run, found()) is None


def test_those_of_other_weights_are_not(run: Path) -> None:
    assert "Measured" not in card(run, "others")
    assert other_results(run, found("others")) == run / "evaluation" / "step-461.json"


def test_what_training_measured_stands_in(tmp_path: Path) -> None:
    row = {"kind": "eval", "stage": "pretrain", "step": 461, "perplexity/en": 54.288, "perplexity/clone": 132.5}
    rows = [row | {"step": 400, "perplexity/en": 60.0}, row, row | {"kind": "train", "step": 461}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    text = card(tmp_path)
    assert "On held-out text (`dev`), by training at step 461" in text
    assert "| perplexity | en | 54.29 |" in text


def test_nothing_is_made_up(tmp_path: Path) -> None:
    assert "Measured" not in card(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "step-461.json").write_text("{half a")
    assert "Measured" not in card(tmp_path)
