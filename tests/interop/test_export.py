"""Exports, read by stock `transformers`: the same logits, perplexity, token ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign.config import Recipe, dump_recipe
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.evaluation.language_model import evaluate_language
from prealign.evaluation.loading import FoundWeights, find_weights, load_model
from prealign.interop.export import export
from prealign.interop.tokenizer import check_tokenizer
from prealign.model.initialisation import initial_value
from prealign.model.layout import Group, Layout
from prealign.preparation.pipeline import prepare
from prealign.text.tokenizer import Tokenizer
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.evaluation.models import ONE
from tests.model.families import FAMILIES
from tests.processes import finish, start, train


def recipe_of(data_dir: Path, family: str, **options: Any) -> Recipe:
    settings = {"hidden_size": 32, "heads": 4} | FAMILIES[family] | options
    return tiny_recipe(data_dir, model=settings, parallel={"precision": "fp32"})


def weights_of(recipe: Recipe) -> FoundWeights:
    """Initial weights, enlarged and with biases and norms that are not trivial."""

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        return initial_value(name, shape, recipe) * 3 + 0.05 * noise

    return FoundWeights("pretrain", 7, Path("nowhere"), "identity", value, "data")


def run_of(recipe: Recipe, folder: Path) -> Path:
    """A folder with a run's recipe."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return folder


def logits_of(recipe: Recipe, found: FoundWeights, ids: torch.Tensor) -> torch.Tensor:
    model = load_model(recipe, found.value, torch.device("cpu"))
    rows, length = ids.shape
    hidden, _ = model.gpt(ids.flatten(), torch.arange(length).repeat(rows), Layout((Group(rows, length),)))
    return (hidden @ model.head.weight.T).view(rows, length, -1)


@pytest.mark.parametrize(
    ("family", "options", "name"),
    [
        ("gpt2", {}, "GPT2LMHeadModel"),
        ("gpt2", {"tied_embeddings": True}, "GPT2LMHeadModel"),
        ("llama", {}, "LlamaForCausalLM"),
        ("llama", {"kv_heads": 4, "tied_embeddings": True}, "LlamaForCausalLM"),
        ("llama, 3.1", {}, "LlamaForCausalLM"),
        ("llama, linear scaling", {}, "LlamaForCausalLM"),
        ("qwen2", {}, "Qwen2ForCausalLM"),
        ("qwen2, yarn", {}, "Qwen2ForCausalLM"),
        ("qwen3", {}, "Qwen3ForCausalLM"),
    ],
)
def test_logits(data_dir: Path, tmp_path: Path, family: str, options: dict[str, Any], name: str) -> None:
    recipe = recipe_of(data_dir, family, **options)
    found = weights_of(recipe)
    export(run_of(recipe, tmp_path), recipe, open_data(recipe), found, tmp_path / "out", "fp32", 10**9)
    stock, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(stock).__name__ == name
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.randint(0, recipe.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, logits_of(recipe, found, ids), atol=1e-5, rtol=1e-5)


def test_files_of_bounded_size(data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data_dir, "llama")
    found = weights_of(recipe)
    for folder, shard in (("one", 10**9), ("many", 60_000)):
        export(run_of(recipe, tmp_path), recipe, open_data(recipe), found, tmp_path / folder, "fp32", shard)
    assert (tmp_path / "one" / "model.safetensors").is_file()
    files = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(files) > 3
    largest = recipe.padded_vocab_size * 32 * 4
    assert all(file.stat().st_size < max(60_000, largest) + 10_000 for file in files)
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / folder).state_dict() for folder in ("one", "many"))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


SCRIPTS = [
    (0x20, 0x7E),
    (0xC0, 0x17F),
    (0x400, 0x4FF),
    (0x600, 0x6FF),
    (0x4E00, 0x4FFF),
    (0x900, 0x97F),
    (0x1F600, 0x1F64F),
]


def strings(count: int) -> list[str]:
    """Words in seven scripts with what stands between words, and fragments of the sample text."""
    draw = np.random.default_rng(3)
    between = [" ", "  ", "\n", "\n\n", ". ", ", ", "\t", "'", " 12345 ", "-", "  \n ", "<|endoftext", "\u00a0"]
    text = SAMPLE_TEXT / "northanger_abbey.jsonl"
    lines = [json.loads(line)["text"] for line in text.read_text(encoding="utf-8").splitlines()[:40]]
    result = []
    for number in range(count):
        if number % 4 == 0:
            line = lines[draw.integers(len(lines))]
            first = draw.integers(len(line))
            result.append(line[first : first + draw.integers(200)])
            continue
        first, last = SCRIPTS[draw.integers(len(SCRIPTS))]
        parts = []
        for _ in range(draw.integers(1, 12)):
            parts.append("".join(map(chr, draw.integers(first, last + 1, draw.integers(1, 9)))))
            parts.append(between[draw.integers(len(between))])
        result.append("".join(parts))
    return result


def test_token_ids(data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data_dir, "gpt2")
    data = open_data(recipe)
    export(run_of(recipe, tmp_path), recipe, data, weights_of(recipe), tmp_path / "out", "fp32", 10**9)
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    clone = AutoTokenizer.from_pretrained(tmp_path / "out", subfolder="tokenizer_clone")
    for text in strings(10_000):
        ids = data.tokenizer.encode(text).tolist()
        assert stock(text)["input_ids"] == ids, repr(text)
        assert clone(text)["input_ids"] == [token + recipe.token_offset("clone") for token in ids], repr(text)
        assert stock.decode(ids) == text
    end = data.tokenizer.end_of_document
    assert stock.eos_token_id == end
    assert stock("One.<|endoftext|>Two.")["input_ids"].count(end) == 1
    assert clone.eos_token_id == end + recipe.token_offset("clone")


@pytest.fixture(scope="module")
def exported(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, Path]:
    """A run on two ranks with ZeRO-3, and its export by the launcher."""
    folder = tmp_path_factory.mktemp("export")
    recipe = tiny_recipe(data_dir, parallel={"precision": "fp32", "zero_stage": 3})
    train(recipe, folder / "run", 2)
    code, out, error = finish(
        start(["launchers/export.py", "--run", str(folder / "run"), "--out", str(folder / "out")], 1)
    )
    assert code == 0, error
    assert f"written: {folder / 'out'} (pretrain " in out
    rights = {path.stat().st_mode & 0o777 for path in (folder / "out").iterdir() if path.is_file()}
    assert rights == {(folder / "run" / "recipe.yaml").stat().st_mode & 0o777}  # as umask gives them
    return recipe, folder / "run", folder / "out"


def test_perplexity(exported: tuple[Recipe, Path, Path]) -> None:
    recipe, run, out = exported
    stock = AutoModelForCausalLM.from_pretrained(out)
    data, context = open_data(recipe), recipe.model.context
    for language in ("en", "clone"):
        tokens = torch.from_numpy(data.heldout(language).tokens[: recipe.evaluation.tokens + 1].astype(np.int64))
        nats, count = 0.0, 0
        for first in range(0, len(tokens) - context, context):  # whole windows, as ours are
            part = tokens[first : first + context + 1]
            with torch.no_grad():
                logits = stock(part[None, :-1]).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
            count += len(part) - 1
        model = load_model(recipe, find_weights(run).value, torch.device("cpu"))
        expected = evaluate_language(model, recipe, data, ONE, language)
        assert expected is not None
        assert np.exp(nats / count) == pytest.approx(expected.perplexity, rel=1e-4)


def test_generation(exported: tuple[Recipe, Path, Path]) -> None:
    _, _, out = exported
    model = AutoModelForCausalLM.from_pretrained(out)
    for subfolder in ("", "tokenizer_clone"):
        tokenizer = AutoTokenizer.from_pretrained(out, subfolder=subfolder)
        ids = tokenizer("The little girl went", return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert made.shape[1] > ids.shape[1]
        assert isinstance(tokenizer.decode(made[0]), str)


def test_an_export_is_replaced_and_nothing_else(exported: tuple[Recipe, Path, Path], tmp_path: Path) -> None:
    _, run, out = exported
    arguments = ["launchers/export.py", "--run", str(run), "--out"]
    assert finish(start([*arguments, str(out), "--dtype", "bf16"], 1))[0] == 0
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    (tmp_path / "mine.txt").write_text("mine")
    code, _, error = finish(start([*arguments, str(tmp_path)], 1))
    assert code == 2
    assert f"--out: '{tmp_path}' is there and holds no export; choose another folder" in error
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_where_nothing_can_be_written(exported: tuple[Recipe, Path, Path]) -> None:
    _, run, _ = exported
    code, _, error = finish(start(["launchers/export.py", "--run", str(run), "--out", "/proc/out"], 1))
    assert code == 2
    assert "--out: '/proc/out' cannot be written (" in error
    assert "Traceback" not in error


def test_a_model_that_nobody_else_computes(data_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data_dir, "gpt2", positions="rotary")
    with pytest.raises(UserError, match=r"found positions=rotary, norm=layernorm, .* which no stock architecture"):
        export(
            run_of(recipe, tmp_path / "run"),
            recipe,
            open_data(recipe),
            weights_of(recipe),
            tmp_path / "out",
            "fp32",
            10**9,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_pattern_that_means_another_thing_elsewhere(data_dir: Path) -> None:
    ranks = open_data(tiny_recipe(data_dir)).tokenizer.ranks
    check_tokenizer(Tokenizer(ranks))
    possessive = r"[\p{L}\p{M}]++| ?\p{N}{1,3}+|[^\s\p{L}\p{M}\p{N}]++|\s++"
    with pytest.raises(UserError, match=r"data\.tokenizer\.pattern: found .* means another thing to Hugging Face"):
        check_tokenizer(Tokenizer(ranks, possessive))


def test_data_that_was_made_again(exported: tuple[Recipe, Path, Path], tmp_path: Path) -> None:
    _, run, _ = exported
    other = tiny_recipe(tmp_path / "data", data={"heldout_fraction": 0.2})
    prepare(other, say=lambda line: None)
    arguments = ["launchers/export.py", "--run", str(run), "--out", str(tmp_path / "out")]
    code, _, error = finish(start([*arguments, f"data.dir={other.data.dir}", "data.heldout_fraction=0.2"], 1))
    assert code == 2
    assert "trained on data" in error
    assert not (tmp_path / "out").exists()
