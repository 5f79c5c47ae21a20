"""Facts as tasks for `lm_eval`: fact by fact the log-probabilities and choices of our own measurement."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign.config import Recipe, dump_recipe
from prealign.data.prepared import open_data
from prealign.evaluation.facts import FactsTest, choose
from prealign.evaluation.loading import FoundWeights, load_model
from prealign.interop.export import export
from prealign.model.initialisation import initial_value
from prealign.preparation.pipeline import prepare
from tests.evaluation.models import ONE
from tests.facts.recipes import facts_recipe

STEP = 10  # the second period ends there


def weights(recipe: Recipe) -> FoundWeights:
    """Initial weights, enlarged so that they tell statements apart."""
    return FoundWeights(
        "pretrain", STEP, Path("nowhere"), "identity", lambda name, shape: 4 * initial_value(name, shape, recipe), ""
    )


@pytest.fixture(scope="module", params=["token", "word"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe with facts and the export of a model of it."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = facts_recipe(folder, request.param)
    prepare(recipe, lambda line: None)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    export(folder, recipe, open_data(recipe), weights(recipe), folder / "out", "fp32", 10**9)
    return recipe, folder / "out"


def ours(recipe: Recipe, tested: str, frequency: int) -> tuple[np.ndarray, list[float]]:
    """Log-probabilities of a task's statements, the true one first, and hits, as `evaluate.py` has them."""
    test = FactsTest.of(open_data(recipe))
    assert test is not None
    facts = [f for f in test.facts if (f.period, f.language, f.frequency) == (1, "en", frequency)]
    scores = test.scores(load_model(recipe, weights(recipe).value, torch.device("cpu")), ONE, facts, tested)
    return scores, choose(scores)


def items(out: Path, task: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = yaml.safe_load((out / "lm_eval" / f"{task}.yaml").read_text())
    path = out / settings["dataset_kwargs"]["data_files"]["test"]
    return settings, [json.loads(line) for line in path.read_text().splitlines()]


def true_first(values: list[Any], label: int) -> list[Any]:
    return [values[label], *values[:label], *values[label + 1 :]]


@pytest.mark.parametrize("tested", ["en", "clone"])
@pytest.mark.parametrize("frequency", [1, 3])
def test_stock_models_choose_the_same(exported: tuple[Recipe, Path], tested: str, frequency: int) -> None:
    recipe, out = exported
    scores, hits = ours(recipe, tested, frequency)
    settings, rows = items(out, f"clka_en_{tested}_f{frequency}")
    assert settings["doc_to_text"] == settings["target_delimiter"] == ""
    assert settings["metric_list"] == [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    assert len(rows) == len(scores) == 8
    assert {row["label"] for row in rows} == {0, 1, 2, 3}
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out if tested == "en" else out / "tokenizer_clone")
    for row, score, hit in zip(rows, scores, hits):
        found = []
        for statement in row["statements"]:
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(statement)["input_ids"]]])
            with torch.no_grad():
                logs = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
            found.append(float(logs.gather(1, ids[0, 1:, None]).sum()))
        np.testing.assert_allclose(true_first(found, row["label"]), score, rtol=1e-5)
        assert float(np.argmax(found) == row["label"]) == hit


def test_groups_name_every_task(exported: tuple[Recipe, Path]) -> None:
    _, out = exported
    for tested in ("en", "clone"):
        group = yaml.safe_load((out / "lm_eval" / f"clka_{tested}.yaml").read_text())
        assert group["task"] == [f"clka_{learned}_{tested}_f{n}" for learned in ("en", "clone") for n in (1, 3)]
        assert all((out / "lm_eval" / f"{task}.yaml").is_file() for task in group["task"])
    assert "tokenizer=tokenizer_clone --include_path lm_eval --tasks clka_clone" in (out / "README.md").read_text()


def test_no_tasks_where_stock_models_would_measure_something_else(
    exported: tuple[Recipe, Path], tmp_path: Path
) -> None:
    """Before the first period's end, of the align stage, and with attention that ends at documents."""
    recipe, _ = exported
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    reset = recipe.model_copy(update={"model": recipe.model.model_copy(update={"reset_at_document": True})})
    early = FoundWeights("pretrain", 5, Path(), "", weights(recipe).value, "")
    aligned = FoundWeights("align", STEP, Path(), "", weights(recipe).value, "")
    for name, each, found in (("a", recipe, early), ("b", recipe, aligned), ("c", reset, weights(recipe))):
        export(tmp_path, each, open_data(each), found, tmp_path / name, "fp32", 10**9)
        assert not (tmp_path / name / "lm_eval").exists()
        assert "lm_eval" not in (tmp_path / name / "README.md").read_text()


@pytest.mark.skipif(shutil.which("lm_eval") is None, reason="lm_eval is not installed (pip install lm_eval accelerate)")
@pytest.mark.parametrize("tested", ["en", "clone"])
def test_the_harness_itself(exported: tuple[Recipe, Path], tmp_path: Path, tested: str) -> None:
    """The card's command; each sample's choice is ours."""
    recipe, out = exported
    line = next(line for line in (out / "README.md").read_text().splitlines() if line.endswith(f"clka_{tested}"))
    command = [*line.split(), "--device", "cpu", "--log_samples", "--output_path", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for frequency in (1, 3):
        scores, hits = ours(recipe, tested, frequency)
        (path,) = tmp_path.rglob(f"samples_clka_en_{tested}_f{frequency}_*.jsonl")
        samples = sorted((json.loads(row) for row in path.read_text().splitlines()), key=lambda row: row["doc_id"])
        assert [sample["acc"] for sample in samples] == hits
        for sample, score in zip(samples, scores):
            found = [float(value) for value, _ in sample["filtered_resps"]]
            np.testing.assert_allclose(true_first(found, sample["doc"]["label"]), score, rtol=1e-4)
