"""The demo's first 20 steps of each stage, and of the align stage with Llama's block, give the losses on record: a
change that keeps the mathematics keeps them.

After a change that is meant to move the losses: ``UPDATE_GOLDEN=1 python -m pytest tests/training/test_golden.py``.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from prealign.config import load_recipe
from prealign.config.loading import validate
from prealign.preparation.pipeline import prepare
from tests.processes import ROOT, train

GOLDEN = Path(__file__).with_name("golden_enclone_demo.json")
STEPS = 20
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "kv_heads": 2, "ffn_size": 352}


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("golden")
    values = load_recipe("enclone_demo").model_dump(mode="json")
    values["data"]["dir"] = str(folder / "data")
    values["languages"]["en"]["text"]["files"] = [str(ROOT / "configs" / "sample_text" / "*.jsonl")]
    values["log"] = {"every": 1, "tensorboard": False}
    values["evaluation"]["every"] = 1000
    prepare(validate(values, "demo"), say=lambda line: None)
    rows = {}
    for name, stage, model in (("align", "align", {}), ("pretrain", "pretrain", {}), ("llama", "align", LLAMA)):
        recipe = validate(values | {"stages": [stage], "model": values["model"] | model}, "demo")
        rows[name] = train(recipe, folder / name, 1, "--stop-after", str(STEPS))
    kept = ("step", "lm_loss", "lm_loss/en", "lm_loss/clone", "align_loss", "gradient_norm", "switch_ratio")
    return {
        name: [{key: row[key] for key in kept if key in row} for row in found if row["kind"] == "train"]
        for name, found in rows.items()
    }


def test_losses_are_those_on_record(losses: dict[str, list[dict[str, Any]]]) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert list(losses) == list(expected)
    for stage in losses:
        assert len(losses[stage]) == len(expected[stage]) == STEPS
        for row, golden in zip(losses[stage], expected[stage]):
            assert row.keys() == golden.keys()
            for key, value in golden.items():
                tolerance = 1e-3 if key == "gradient_norm" else 1e-4
                assert row[key] == pytest.approx(value, rel=tolerance), (stage, row["step"], key)
