"""The decoder: causality, padding-free words, documents, checkpointing, initial values, sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prealign.config import Recipe, load_recipe
from prealign.config.model import ModelConfig
from prealign.model.gpt import GPT, Recomputation, Spans
from prealign.model.initialisation import initial_value
from prealign.model.layout import Group, Layout, document_numbers
from prealign.objectives.joint import JointModel
from tests.conftest import tiny_recipe

VOCABULARY = 50


def decoder(**options: Any) -> GPT:
    torch.manual_seed(0)
    config = ModelConfig(layers=3, hidden_size=16, heads=2, context=12, **options)
    return GPT(config, VOCABULARY, Recomputation(), words_after_norm=True).double()


def rows_of(model: GPT, rows: torch.Tensor) -> torch.Tensor:
    count, length = rows.shape
    positions = torch.arange(length).expand(count, length)
    hidden, _ = model(rows.flatten(), positions.flatten(), Layout((Group(count, length),)))
    return hidden.view(count, length, -1)


def test_causal() -> None:
    model = decoder()
    rows = torch.randint(0, VOCABULARY, (2, 10))
    changed = rows.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCABULARY
    before, after = rows_of(model, rows), rows_of(model, changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_right_padding_does_not_reach_real_tokens() -> None:
    model = decoder()
    word = torch.randint(0, VOCABULARY, (1, 4))
    padded = torch.cat((word, torch.zeros(1, 5, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(rows_of(model, word), rows_of(model, padded)[:, :4])


def test_text_and_words_in_one_pass_equal_each_alone() -> None:
    model = decoder()
    text = torch.randint(0, VOCABULARY, (2, 7))
    words = [torch.randint(0, VOCABULARY, (1, length)) for length in (3, 1, 3, 5)]
    # words of equal length together: the two of three tokens, then one, then five
    flat = torch.cat([text.flatten(), words[0][0], words[2][0], words[1][0], words[3][0]])
    positions = torch.cat([torch.arange(7).repeat(2), *(torch.arange(n) for n in (3, 3, 1, 5))])
    spans = Spans(torch.tensor([14, 20, 17, 21]), torch.tensor([3, 1, 3, 5]))
    layout = Layout((Group(2, 7), Group(2, 3), Group(1, 1), Group(1, 5)))
    hidden, vectors = model(flat, positions, layout, spans)
    torch.testing.assert_close(hidden[:14].view(2, 7, -1), rows_of(model, text))
    assert len(vectors) == 4  # embedding, two blocks, the last after the norm
    for number, word in enumerate(words):
        mean = rows_of(model, word)[0].mean(dim=0)
        torch.testing.assert_close(vectors[-1][number], mean / mean.norm())
        embedded = model.embedding.tokens(word[0]).mean(dim=0)  # without positions
        torch.testing.assert_close(vectors[0][number], embedded / embedded.norm())


def test_documents_do_not_see_each_other() -> None:
    model = decoder()
    end = 49
    first, second = torch.tensor([3, 4, 5, end]), torch.tensor([6, 7, 8])
    row = torch.cat((first, second))[None]
    documents, positions = document_numbers(row, row == end)
    assert documents.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    hidden, _ = model(row.flatten(), positions.flatten(), Layout((Group(1, 7, documents),)))
    torch.testing.assert_close(hidden[:4], rows_of(model, first[None])[0])
    torch.testing.assert_close(hidden[4:], rows_of(model, second[None])[0])


def test_checkpointing_changes_nothing(data_dir: Path) -> None:
    outcomes = []
    for mode, words in (("none", None), ("full", None), ("none", 2)):
        parallel = {"precision": "fp32", "activation_checkpointing": mode, "word_activation_checkpointing": words}
        model = JointModel(tiny_recipe(data_dir, parallel=parallel)).double()
        for name, parameter in model.named_parameters():
            parameter.data.copy_(initial_value(name, parameter.shape, tiny_recipe(data_dir)))
        ids, positions = torch.arange(40) % 30, torch.arange(8).repeat(5)
        spans = Spans(torch.tensor([0, 8]), torch.tensor([3, 8]))
        hidden, vectors = model.gpt(ids, positions, Layout((Group(5, 8),)), spans)
        (hidden.square().sum() + sum(vector.sum() for vector in vectors)).backward()
        outcomes.append([parameter.grad for parameter in model.gpt.parameters()])
    torch.testing.assert_close(outcomes[0], outcomes[1])
    torch.testing.assert_close(outcomes[0], outcomes[2])


def test_initial_values(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, model={"layers": 8, "hidden_size": 64, "init": "perfect_clone"})
    with torch.device("meta"):
        model = JointModel(recipe)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    values = {name: initial_value(name, shape, recipe) for name, shape in shapes.items()}
    for name, value in values.items():
        if name.endswith("bias"):
            assert not value.any()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            expected = 0.02 / 4 if residual else 0.02  # sqrt(2 * 8) = 4
            assert value.std().item() == pytest.approx(expected, rel=0.05)
    for name in ("gpt.embedding.tokens.weight", "head.weight"):
        assert torch.equal(values[name][600:1200], values[name][:600])
    assert not torch.equal(values["gpt.blocks.0.mlp.up.weight"], values["gpt.blocks.1.mlp.up.weight"])
    again = tiny_recipe(data_dir, model={"layers": 8, "hidden_size": 64}, seed=2)
    assert not torch.equal(initial_value("head.weight", shapes["head.weight"], again), values["head.weight"])


def parameters_of(recipe: Recipe) -> tuple[int, int]:
    """(without embeddings, all) on the meta device."""
    with torch.device("meta"):
        model = JointModel(recipe)
    everything = sum(parameter.numel() for parameter in model.parameters())
    embeddings = ("gpt.embedding.tokens.weight", "gpt.embedding.positions.weight", "head.weight")
    return everything - sum(p.numel() for name, p in model.named_parameters() if name in embeddings), everything


@pytest.mark.parametrize(
    ("name", "layers", "hidden_size", "body"),
    [
        ("real_150m", 12, 1024, 151e6),
        ("real_400m", 24, 1024, 302e6),
        ("real_1p3b", 24, 2048, 1.209e9),
        ("real_2p7b", 32, 2560, 2.518e9),
        ("real_6p7b", 32, 4096, 6.444e9),
        ("real_13b", 40, 5120, 12.59e9),
    ],
)
def test_parameter_counts(name: str, layers: int, hidden_size: int, body: float) -> None:
    recipe = load_recipe(name)
    assert (recipe.model.layers, recipe.model.hidden_size, recipe.model.context) == (layers, hidden_size, 1024)
    without, everything = parameters_of(recipe)
    assert without == layers * (12 * hidden_size**2 + 13 * hidden_size) + 2 * hidden_size
    assert without == pytest.approx(body, rel=0.003)
    assert everything == without + (2 * recipe.padded_vocab_size + 1024) * hidden_size


def test_tied_embeddings_are_counted_once() -> None:
    untied = parameters_of(load_recipe("real_150m"))[1]
    tied_recipe = load_recipe("real_150m", ["model.tied_embeddings=true"])
    assert untied - parameters_of(tied_recipe)[1] == tied_recipe.padded_vocab_size * 1024
