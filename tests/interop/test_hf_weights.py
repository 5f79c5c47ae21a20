"""Checkpoints of `transformers` as first weights: the same logits; what does not fit is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.evaluation.loading import FoundWeights, load_model
from prealign.interop.architectures import architecture_of
from prealign.interop.export import export
from prealign.interop.hf_config import read_model
from prealign.interop.hf_weights import HuggingFaceWeights
from prealign.interop.importing import read_import
from prealign.model.layout import Group, Layout
from tests.conftest import tiny_recipe
from tests.interop.checkpoints import changed_json, stock_config, stock_model
from tests.interop.test_export import run_of

ROWS = 1200
"""Those of the prepared data that tests share: 600 tokens and a clone's."""
FAMILIES = ["gpt2", "llama", "qwen2", "qwen3"]


def recipe_of(folder: Path, data_dir: Path = Path("no-data"), rows: int = ROWS, **model: Any) -> Recipe:
    """A recipe with the keys that fit, and as many tokens, without a clone, as there are rows."""
    keys = {"init": f"hf:{folder}", "vocab_multiple": rows} | read_model(folder).section | model
    english = {"en": tiny_recipe(data_dir).languages["en"].model_dump(mode="json")}
    return tiny_recipe(
        data_dir,
        model=keys | {"kv_heads": keys.get("kv_heads")},
        data={"dir": str(data_dir), "tokenizer": {"vocab_size": rows}},
        languages=english,
    )


def logits_of(recipe: Recipe, value: Callable[..., torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    model = load_model(recipe, value, torch.device("cpu"))
    rows, length = ids.shape
    hidden, _ = model.gpt(ids.flatten(), torch.arange(length).repeat(rows), Layout((Group(rows, length),)))
    return (hidden @ model.head.weight.T).view(rows, length, -1)


def some_ids(rows: int = ROWS) -> torch.Tensor:
    return torch.randint(0, rows, (3, 40), generator=torch.Generator().manual_seed(1))


def same_logits(stock: PreTrainedModel, recipe: Recipe) -> None:
    weights = HuggingFaceWeights(Path(recipe.model.imported_from or ""), recipe)
    with torch.no_grad():
        expected = stock(some_ids()).logits
    torch.testing.assert_close(logits_of(recipe, weights.value, some_ids()), expected, atol=1e-5, rtol=1e-5)


SCALED = {
    "linear": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 50.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 50.0, "factor": 8.0, "original_max_position_embeddings": 256},
    "yarn, in its own way": {
        "rope_type": "yarn",
        "rope_theta": 50.0,
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 6,
        "beta_slow": 2.0,
        "attention_factor": 1.7,
        "truncate": False,
    },
}


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotary_positions(kind: str, tmp_path: Path) -> None:
    stock = stock_model("llama", ROWS, rope_parameters=dict(SCALED[kind]))
    stock.save_pretrained(tmp_path / "stock")
    recipe = recipe_of(tmp_path / "stock")
    scaling = recipe.model.rotary_scaling
    assert scaling is not None
    assert (scaling.kind, scaling.factor) == (SCALED[kind]["rope_type"], SCALED[kind]["factor"])
    same_logits(stock, recipe)
    exported = architecture_of(recipe.model, ROWS).config["rope_parameters"]
    assert exported.items() >= SCALED[kind].items()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_and_round_trip(kind: str, tied: bool, data_dir: Path, tmp_path: Path) -> None:
    stock = stock_model(kind, ROWS, tie_word_embeddings=tied)
    stock.save_pretrained(tmp_path / "stock")
    recipe = recipe_of(tmp_path / "stock")
    assert recipe.model.tied_embeddings == tied
    same_logits(stock, recipe)

    value = HuggingFaceWeights(tmp_path / "stock", recipe).value
    found = FoundWeights("pretrain", 7, tmp_path, "identity", value, "data")
    data = open_data(tiny_recipe(data_dir))
    export(run_of(recipe, tmp_path / "run"), recipe, data, found, tmp_path / "out", "fp32", 10**9)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(stock)
    mine, theirs = again.state_dict(), stock.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_as_many_key_value_heads_as_heads(kind: str, tmp_path: Path) -> None:
    options = {"num_key_value_heads": 4} if kind == "llama" else {"n_inner": 72}
    stock = stock_model(kind, ROWS, **options)
    stock.save_pretrained(tmp_path)
    same_logits(stock, recipe_of(tmp_path))


def test_weights_in_several_files(tmp_path: Path) -> None:
    stock = stock_model("llama", ROWS)
    stock.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    same_logits(stock, recipe_of(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    stock = stock_model("gpt2", ROWS).to(dtype)
    stock.save_pretrained(tmp_path)
    assert all(tensor.dtype == dtype for tensor in load_file(tmp_path / "model.safetensors").values())
    same_logits(stock.float(), recipe_of(tmp_path))


def test_a_model_without_its_head(tmp_path: Path) -> None:
    """GPT-2 on the hub has names without ``transformer.``, and masks beside the weights."""
    stock = stock_model("gpt2", ROWS)
    stock.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file(short | {"h.0.attn.bias": torch.ones(1, 1, 48, 48)}, tmp_path / "model.safetensors")
    same_logits(stock, recipe_of(tmp_path))


def test_a_shorter_context(tmp_path: Path) -> None:
    stock = stock_model("gpt2", ROWS)
    stock.save_pretrained(tmp_path)
    same_logits(stock, recipe_of(tmp_path, context=40))


def test_rows_of_padding_take_no_more_than_their_share(tmp_path: Path) -> None:
    """By Jensen's inequality a row at the mean adds to the softmax at most what an average token does."""
    stock = stock_model("gpt2", ROWS)
    stock.save_pretrained(tmp_path)
    recipe = recipe_of(tmp_path, vocab_multiple=128)
    logits = logits_of(recipe, HuggingFaceWeights(tmp_path, recipe).value, some_ids())
    with torch.no_grad():
        expected = stock(some_ids()).logits.logsumexp(-1)
    assert logits.shape[-1] == 1280
    more = logits.logsumexp(-1) - expected
    assert more.min() >= -1e-5
    assert more.max() < torch.log(torch.tensor(1280 / ROWS)) + 1e-5


def test_rows_of_a_clone(tmp_path: Path) -> None:
    """They are of the size of the others, and no two are alike; those of the checkpoint stay."""
    stock = stock_model("gpt2", 600)
    stock.save_pretrained(tmp_path)
    plain = recipe_of(tmp_path, rows=600)
    recipe = tiny_recipe(Path("no-data"), model=plain.model.model_dump(mode="json") | {"vocab_multiple": 1})
    assert recipe.padded_vocab_size == 1200
    table = HuggingFaceWeights(tmp_path, recipe).value("gpt.embedding.tokens.weight", torch.Size((1200, 32)))
    own = stock.transformer.wte.weight.detach()
    assert torch.equal(table[:600], own)
    noise = table[600:] - own.mean(dim=0)
    assert noise.std().item() == pytest.approx(recipe.model.init_std, rel=0.05)
    assert len(table.unique(dim=0)) == 1200


def break_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return change


def with_tensor(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {name: value}, folder / "model.safetensors")

    return change


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: changed_json(folder / "config.json", **changes)


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BAD = [
    (lambda folder: shutil.rmtree(folder), r"config\.json: no such file; expected the config"),
    (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
    (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: cannot be read"),
    (lambda folder: (folder / "model.safetensors").unlink(), r"found no model\.safetensors and no "),
    (as_pickle, r"found pytorch_model\.bin and no model\.safetensors; convert it: python -c \"from transformers"),
    (break_off, r"model\.safetensors: cannot be read \(.*\); remove it and download it again"),
    (without("model.layers.1.mlp.up_proj.weight"), r"found no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'; "),
    (without("lm_head.weight"), r"found no tensor 'lm_head\.weight'"),
    (
        with_tensor("model.layers.0.self_attn.o_proj.bias", torch.zeros(32)),
        r"found tensors that this kind of model does not have: 'model\.layers\.0\.self_attn\.o_proj\.bias'",
    ),
    (
        with_tensor("model.norm.weight", torch.ones(33)),
        r"tensor 'model\.norm\.weight' has shape \[33\]; expected \[32\] by config\.json",
    ),
    (with_tensor("model.norm.weight", torch.ones(32).to(torch.int8)), r"'model\.norm\.weight' is of type I8; expected"),
    (configured(model_type="mistral"), r"found model_type 'mistral'; expected one of \['gpt2', 'llama'"),
    (
        configured(rope_parameters={"rope_type": "dynamic", "factor": 4}),
        r"rope scaling: found 'dynamic'; expected none, ",
    ),
    (
        configured(
            rope_parameters={"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "mscale": 1}
        ),
        r"config\.json: mscale: found 1; expected None; this trainer",
    ),
    (
        configured(rope_parameters={"rope_type": "yarn", "factor": 4}),
        r"config\.json: original_max_position_embeddings: missing",
    ),
    (configured(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5}), r"config\.json: factor: missing"),
    (
        configured(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None),
        r"model\.rotary_base: .*; model\.rotary_scaling: found None in the recipe, .*linear.* in it",
    ),
    (configured(hidden_act="gelu", mlp_bias=True), r"hidden_act: found 'gelu'; expected 'silu'; mlp_bias: found True"),
    (configured(attention_bias=True), r"attention_bias: found True; expected False"),
    (configured(use_sliding_window=True), r"use_sliding_window: found True"),
    (configured(layer_types=["sliding_attention"]), r"layer_types: found \['sliding_attention'\]"),
    (configured(quantization_config={"bits": 4}), r"quantization_config: found"),
    (configured(hidden_size="wide"), r"not the config of a llama"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_cannot_be_imported(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "stock"
    stock_model("llama", ROWS).save_pretrained(folder)
    recipe = recipe_of(folder)
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        HuggingFaceWeights(folder, recipe)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_several(tmp_path: Path) -> None:
    stock_model("llama", ROWS).save_pretrained(tmp_path, max_shard_size="60KB")
    recipe = recipe_of(tmp_path)
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(UserError, match=rf"{last.name}: no such file, though model\.safetensors\.index\.json names it"):
        HuggingFaceWeights(tmp_path, recipe)


def test_keys_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    stock_config("gpt2", ROWS).save_pretrained(tmp_path)
    recipe = recipe_of(tmp_path, layers=3, heads=2, tied_embeddings=False, context=64)
    message = (
        r"model\.layers: found 3 in the recipe, 2 in it; model\.heads: found 2 in the recipe, 4 in it; "
        r"model\.kv_heads: .*; model\.head_size: .*; model\.context: found 64 in the recipe, at most 48 in it; "
        r"model\.tied_embeddings: found false in the recipe, true in it; python launchers/import_hf\.py"
    )
    with pytest.raises(UserError, match=message):
        HuggingFaceWeights(tmp_path, recipe)


@pytest.mark.parametrize("size", [100, 2000])
def test_a_tokenizer_of_another_size(size: int, tmp_path: Path) -> None:
    stock_model("gpt2", 1400).save_pretrained(tmp_path)
    fitting = recipe_of(tmp_path, rows=1400)
    tokenizer = fitting.data.tokenizer.model_copy(update={"vocab_size": size + 200})
    recipe = fitting.model_copy(update={"data": fitting.data.model_copy(update={"tokenizer": tokenizer})})
    with pytest.raises(UserError, match=rf"vocab_size: found {size + 200:,}; the embedding in .* has 1,400 rows"):
        HuggingFaceWeights(tmp_path, recipe)


def test_the_keys_that_are_printed_fit(tmp_path: Path) -> None:
    stock_model("qwen2", ROWS, tie_word_embeddings=True).save_pretrained(tmp_path)
    printed = read_import(tmp_path, None).recipe()
    for line in ("kv_heads: 2", "attention_bias: true", "tied_embeddings: true", f"vocab_multiple: {ROWS}"):
        assert line in printed
