"""Runs that begin with a checkpoint of `transformers`: import, prepare, align, pretrain, export, and on again."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from prealign.config import Recipe, load_recipe
from prealign.config.stage import align_stage
from prealign.data.loader import StageDataset, micro_batches
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import UserError
from prealign.interop.export import export
from prealign.preparation.pipeline import prepare
from prealign.random_streams import Draw, mix
from prealign.training.plan import align_plan
from prealign.training.run import first_weights
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.interop.checkpoints import stock_model, stock_tokenizer
from tests.interop.test_export import run_of, weights_of
from tests.processes import finish, start, train

WORDS = {"little": "petit", "house": "maison", "morning": "matin", "friend": "ami", "mother": "mere", "day": "jour"}
TOKENS = {"en": 8_192, "de": 2_048}
"""20 steps of 16 x 32 tokens."""


def prepared(
    folder: Path, kind: str, family: str, rows: int, options: dict[str, Any] | None = None, **changes: Any
) -> tuple[Recipe, list[str]]:
    """A checkpoint (with ``options`` of its config) with its tokenizer, imported by the launcher into the base of a
    recipe for which data is prepared; the recipe, and what preparation said."""
    stock_model(kind, rows, **options or {}).save_pretrained(folder / "stock")
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"] if family == "llama3" else ["<|endoftext|>"]
    stock_tokenizer(family, 600, specials).save(str(folder / "stock" / "tokenizer.json"))
    arguments = ["launchers/import_hf.py", str(folder / "stock"), "--out", str(folder / "imported")]
    code, out, error = finish(start(arguments))
    assert code == 0, error
    assert f"written: {folder / 'imported' / 'model.yaml'}" in out
    (folder / "en-de.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in WORDS.items()))
    imported = yaml.safe_load((folder / "imported" / "model.yaml").read_text())
    german = {"files": [str(SAMPLE_TEXT / "persuasion.jsonl")], "max_documents": 40}
    values = tiny_recipe(folder / "data").model_dump(mode="json")
    languages = {
        "en": {"tokens": TOKENS["en"], "text": values["languages"]["en"]["text"]},
        "de": {"tokens": TOKENS["de"], "text": german, "dictionaries": [str(folder / "en-de.tsv")]},
    }
    recipe = tiny_recipe(
        folder / "data",
        model=imported["model"] | {"layers": 2, "hidden_size": 32, "heads": 4, "context": 32},
        data={"dir": str(folder / "data"), "heldout_fraction": 0.1, "tokenizer": imported["data"]["tokenizer"]},
        languages=languages,
        align={"fraction": 0.25, "words_per_step": 12, "learning_rate": 1e-3},
        **changes,
    )
    said: list[str] = []
    prepare(recipe, said.append)
    return recipe, said


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("gpt2")
    recipe, said = prepared(folder, "gpt2", "gpt2", 601)
    assert recipe.padded_vocab_size == 601
    (note,) = [line for line in said if line.startswith("note: languages.en: ") and "token boundary" in line]
    joined = open_data(recipe).artefacts["en"].facts["words_without_token_boundary"]
    assert f"{joined:,} of " in note
    assert joined > 0  # "Isabella's": the "s" begins inside a token
    return recipe, folder


@pytest.fixture(scope="module")
def rows(gpt2: tuple[Recipe, Path]) -> list[dict[str, Any]]:
    """Metrics of a run with both stages on one process."""
    recipe, folder = gpt2
    return train(recipe, folder / "run")


def first_batch(recipe: Recipe, data: PreparedData) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of the align stage's first step."""
    stage, plan = align_stage(recipe, 1), align_plan(recipe)
    dataset = StageDataset(data.streams(False), plan.mixture, int(mix(recipe.seed, Draw.WINDOW_ORDER)))
    batch = stage.recipe.batch
    sizes = {"global_batch_size": batch.global_batch_size, "micro_batch_size": batch.micro_batch_size}
    place = {"dp_rank": 0, "dp_size": 1, "first_step": 0, "steps": 1, "workers": 0, "pin_memory": False}
    (micro,) = micro_batches(dataset, **sizes, **place, on_worker_start=lambda: None)
    return torch.cat([each.inputs for each in micro]), torch.cat([each.targets for each in micro])


def lm_losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["lm_loss"] for row in rows if row["kind"] == "train"]


def test_the_first_loss_is_that_of_transformers(gpt2: tuple[Recipe, Path], rows: list[dict[str, Any]]) -> None:
    recipe, folder = gpt2
    steps = [(row["stage"], row["step"]) for row in rows if row["kind"] == "train"]
    assert steps == [("align", step) for step in range(1, 6)] + [("pretrain", step) for step in range(1, 16)]
    inputs, targets = first_batch(recipe, open_data(recipe))
    stock = AutoModelForCausalLM.from_pretrained(folder / "stock")
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(stock(inputs).logits.flatten(0, 1), targets.flatten())
    losses = lm_losses(rows)
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    assert losses[-1] < losses[0] - 0.2
    assert all("align_loss" in row for row in rows if row["kind"] == "train" and row["stage"] == "align")


@pytest.mark.parametrize("parallel", [{"zero_stage": 3}, {"tensor_parallel_size": 2}], ids=["ZeRO 3", "tensor 2"])
def test_other_layouts_have_the_same_losses(
    parallel: dict[str, Any], gpt2: tuple[Recipe, Path], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    recipe, _ = gpt2
    layout = recipe.parallel.model_copy(update=parallel)
    found = lm_losses(train(recipe.model_copy(update={"parallel": layout}), tmp_path / "run", 2))
    assert found == pytest.approx(lm_losses(rows), rel=1e-4)
    assert found[0] == pytest.approx(lm_losses(rows)[0], rel=1e-6)


def test_align_later(gpt2: tuple[Recipe, Path], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A finished run is exported, and another run aligns the export."""
    recipe, folder = gpt2
    arguments = ["launchers/export.py", "--run", str(folder / "run"), "--out", str(tmp_path / "out")]
    code, _, error = finish(start(arguments))
    assert code == 0, error
    model = recipe.model.model_copy(update={"init": f"hf:{tmp_path / 'out'}"})
    again = train(recipe.model_copy(update={"model": model, "stages": ["align"]}), tmp_path / "run")
    inputs, targets = first_batch(recipe, open_data(recipe))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert lm_losses(again)[0] == pytest.approx(loss.item(), rel=1e-5)
    assert lm_losses(again)[0] < lm_losses(rows)[0] - 0.3


def test_an_export_with_clones_goes_on(data_dir: Path, tmp_path: Path) -> None:
    """The rows of clones are taken over with the others, and a recipe with other clones is refused."""
    recipe = tiny_recipe(data_dir)
    run = run_of(recipe, tmp_path / "run")
    export(run, recipe, open_data(recipe), weights_of(recipe), tmp_path / "out", "fp32", 10**9)
    model = recipe.model.model_copy(update={"init": f"hf:{tmp_path / 'out'}"})
    value = first_weights(recipe.model_copy(update={"model": model}), open_data(recipe))
    table = AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().weight
    assert torch.equal(value("gpt.embedding.tokens.weight", table.shape), table)
    two = {
        **{name: language.model_dump(mode="json") for name, language in recipe.languages.items()},
        "second": {"tokens": 512, "clone_of": "en"},
    }
    other = tiny_recipe(data_dir, model=model.model_dump(mode="json"), languages=two)
    with pytest.raises(UserError, match="was exported with 1 clone languages; the recipe has 2"):
        first_weights(other, open_data(recipe))


def test_llama_with_special_tokens_of_its_own(tmp_path: Path) -> None:
    """Documents end with ``<|end_of_text|>``, which is not the last id, through preparation, training and export; the
    embedding has rows that the tokenizer does not know. Two tensor ranks share one head of keys and values."""
    parallel = {"precision": "fp32", "zero_stage": 1, "tensor_parallel_size": 2}
    recipe, _ = prepared(tmp_path, "llama", "llama3", 640, {"num_key_value_heads": 1}, parallel=parallel)
    assert (recipe.data.tokenizer.vocab_size, recipe.data.tokenizer.end_id) == (603, 601)
    assert recipe.padded_vocab_size == 640
    reset = recipe.model.model_copy(update={"reset_at_document": True})
    assert recipe.model_copy(update={"model": reset}).document_ends == [601]
    data = open_data(recipe)
    store = data.heldout("en")
    assert store.tokens[int(store.lengths[0]) - 1] == 601
    arguments = ["launchers/prepare.py", "--config", _written(recipe, tmp_path / "recipe.yaml"), "--verify"]
    code, _, error = finish(start(arguments))
    assert code == 0, error
    losses = lm_losses(train(recipe, tmp_path / "run", 2))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock")
    inputs, targets = first_batch(recipe, data)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(stock(inputs).logits.flatten(0, 1), targets.flatten())
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    code, _, error = finish(
        start(["launchers/export.py", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    )
    assert code == 0, error
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.eos_token_id == 601


def _written(recipe: Recipe, path: Path) -> str:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(path)) == recipe
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.init=gpt2",
            "model.init: found 'gpt2'; expected random, perfect_clone, hf:FOLDER or hf:OWNER/NAME@COMMIT",
        ),
        (
            "model.init='hf:'",
            "model.init: found 'hf:'; expected random, perfect_clone, hf:FOLDER or hf:OWNER/NAME@COMMIT",
        ),
        ("model.init=hf:$NO_SUCH/x", "model.init: found .* but the environment has no"),
        ("model.layers=3", "model.layers: found 3 in the recipe, 2 in it"),
        ("data.tokenizer.end_of_document=5", "end_of_document: found 5; the tokenizer in "),
        ("data.tokenizer.end_of_document=601", "found end_of_document=601; expected an id below vocab_size=601"),
    ],
)
def test_what_does_not_fit(change: str, message: str, gpt2: tuple[Recipe, Path]) -> None:
    recipe, folder = gpt2
    path = _written(recipe, folder / "bad.yaml")
    with pytest.raises(UserError, match=message) as caught:
        _first_weights_of(path, change)
    assert "\n" not in str(caught.value)


def _first_weights_of(path: str, change: str) -> None:
    recipe = load_recipe(path, [change])
    first_weights(recipe, open_data(recipe))


def test_check_says_what_it_starts_from(gpt2: tuple[Recipe, Path]) -> None:
    recipe, folder = gpt2
    path, run = _written(recipe, folder / "good.yaml"), f"run_dir={folder / 'new'}"
    code, out, error = finish(start(["launchers/pretrain.py", "--config", path, "--check", run]))
    assert code == 0, error
    assert f"weights: {folder / 'stock'} has the shapes and token ids of the recipe" in out
    code, _, error = finish(start(["launchers/pretrain.py", "--config", path, run, "model.init=hf:no/such"]))
    assert code == 2
    assert error.startswith(
        "error: model.init: hf:no/such: no such folder; a model of the hub has its commit behind it"
    )
    assert len(error.splitlines()) == 1


def test_data_of_another_tokenizer(data_dir: Path, gpt2: tuple[Recipe, Path]) -> None:
    recipe, _ = gpt2
    other = open_data(tiny_recipe(data_dir))
    with pytest.raises(UserError, match="the prepared data has another tokenizer than"):
        first_weights(recipe, other)
