"""A small prepared corpus that tests share, and recipes on it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from prealign.config import Recipe
from prealign.config.loading import validate
from prealign.preparation.pipeline import prepare

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run processes side by side; the same threads give the same sums
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton must be told before it is imported, which other packages do too

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_TEXT = ROOT / "configs" / "sample_text"


def tiny_recipe(data_dir: Path, **changes: Any) -> Recipe:
    """One novel, 600 + 600 tokens of vocabulary, a model of two blocks; ``changes`` are merged over sections."""
    values: dict[str, Any] = {
        "name": "tiny",
        "data": {"dir": str(data_dir), "heldout_fraction": 0.1, "tokenizer": {"vocab_size": 600}},
        "languages": {
            "en": {"tokens": 40_960, "text": {"files": [str(SAMPLE_TEXT / "northanger_abbey.jsonl")]}},
            "clone": {"tokens": 10_240, "clone_of": "en", "clone_share": 0.2},
        },
        "model": {"layers": 2, "hidden_size": 32, "heads": 2, "context": 32},
        "batch": {"global_batch_size": 16, "micro_batch_size": 4},
        "align": {"fraction": 0.1, "words_per_step": 64, "learning_rate": 1e-3},
        "pretrain": {"learning_rate": 1e-3, "warmup": 0.1},
        "codeswitch": {"ratio": 0.2},
        "parallel": {"precision": "fp32"},
        "evaluation": {"every": 1000, "tokens": 2000, "probe_words": 50},
        "checkpoint": {"every": 1000},
        "log": {"every": 1, "tensorboard": False},
        "loader_workers": 0,
    }
    for key, change in changes.items():
        whole = not isinstance(change, dict) or key == "languages"
        values[key] = change if whole else values.get(key, {}) | change
    return validate(values, "tiny recipe")


STARTERS = {"start", "train", "on_ranks", "subprocess"}
"""What a test module has where it starts processes."""

LONG = (
    "evaluation/test_generated_pairs.py",
    "facts/",
    "kernels/test_infonce.py",
    "kernels/test_pool.py",
    "kernels/test_rank_plan.py",
    "kernels/test_symmetric.py",
    "interop/test_lm_eval_tasks.py",
    "lexicon/test_llm_translating.py",
    "preparation/test_pipeline.py",
    "preparation/test_text_stores.py",
    "preparation/test_token_stores.py",
    "suites/test_execution.py",
    "test_document_commands.py",
)
"""Modules that interpret kernels, prepare much, or wait for many answers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``long`` what ``tests/run.sh quick`` leaves out."""
    for item in items:
        starts = STARTERS & vars(getattr(item, "module", None) or object).keys()
        if starts or any(part in item.path.as_posix() for part in LONG):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of `tiny_recipe`; read only."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(tiny_recipe(folder), say=lambda line: None)
    return folder


@pytest.fixture
def recipe(data_dir: Path) -> Recipe:
    return tiny_recipe(data_dir)
