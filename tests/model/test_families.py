"""Blocks of today: the numbers of `transformers`, words, generation, counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import LlamaModel

from prealign.config import Recipe, load_recipe
from prealign.errors import UserError
from prealign.model.flops import body_parameters, text_token_flops
from prealign.model.gpt import Spans
from prealign.model.layout import Group, Layout
from prealign.model.shapes import parameter_count
from tests.conftest import tiny_recipe
from tests.model.families import FAMILIES, VOCABULARY, config_of, decoder_of, stock_config, stock_model

STOCK = [name for name in FAMILIES if name != "gpt2"]


@pytest.mark.parametrize("family", STOCK)
def test_hidden_states_are_those_of_transformers(family: str) -> None:
    model = decoder_of(family)
    rows = torch.randint(0, VOCABULARY, (3, 17))
    with torch.no_grad():
        hidden, _ = model(rows.flatten(), torch.arange(17).repeat(3), Layout((Group(3, 17),)))
        expected = stock_model(family, model)(rows).last_hidden_state
    torch.testing.assert_close(hidden.view(3, 17, -1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", STOCK)
def test_parameters_are_as_many_as_in_transformers(family: str) -> None:
    model = decoder_of(family)
    assert sum(p.numel() for p in model.parameters()) == stock_model(family, model).num_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_words_beside_text_are_words_alone(family: str) -> None:
    model = decoder_of(family).double()
    text, words = torch.randint(0, VOCABULARY, (2, 9)), torch.randint(0, VOCABULARY, (5, 3))
    ids = torch.cat((text.flatten(), words.flatten()))
    positions = torch.cat((torch.arange(9).repeat(2), torch.arange(3).repeat(5)))
    spans = Spans(18 + 3 * torch.arange(5), torch.full((5,), 3))
    hidden, vectors = model(ids, positions, Layout((Group(2, 9), Group(5, 3))), spans)
    alone, _ = model(words.flatten(), torch.arange(3).repeat(5), Layout((Group(5, 3),)))
    torch.testing.assert_close(hidden[18:], alone)
    torch.testing.assert_close(vectors[-1], normalize(alone.view(5, 3, -1).mean(dim=1), dim=1))
    torch.testing.assert_close(vectors[0], normalize(model.embedding.tokens(words).mean(dim=1), dim=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_is_without(family: str) -> None:
    model = decoder_of(family).double()
    rows = torch.randint(0, VOCABULARY, (3, 12))
    whole, _ = model(rows.flatten(), torch.arange(12).repeat(3), Layout((Group(3, 12),)))
    cache, parts = model.new_cache(), []
    for first, last in [(0, 5), *((place, place + 1) for place in range(5, 12))]:
        new = last - first
        positions = torch.arange(first, last).repeat(3)
        hidden, _ = model(rows[:, first:last].flatten(), positions, Layout((Group(3, new),)), cache=cache)
        parts.append(hidden.view(3, new, -1))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole.view(3, 12, -1))


def test_documents_start_anew_with_rotary_positions() -> None:
    """Angles are of positions within a document, so a document's states do not depend on what stands before it."""
    model = decoder_of("llama").double()
    row = torch.randint(0, VOCABULARY, (1, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([*range(5), *range(7)])
    hidden, _ = model(row.flatten(), positions, Layout((Group(1, 12, documents),)))
    alone, _ = model(row[0, 5:], torch.arange(7), Layout((Group(1, 7),)))
    torch.testing.assert_close(hidden[5:], alone)


@pytest.mark.parametrize(("name", "body"), [("llama_150m", 0.136e9), ("llama_1p3b", 1.132e9), ("llama_8b", 6.98e9)])
def test_recipes_have_as_many_parameters_as_in_transformers(name: str, body: float) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        stock = LlamaModel(stock_config("llama", recipe.model, recipe.padded_vocab_size))
    head = recipe.padded_vocab_size * recipe.model.hidden_size
    assert parameter_count(recipe) - head == stock.num_parameters()
    assert body_parameters(recipe) == pytest.approx(body, rel=0.01)


def test_operations_count_attention_over_all_heads() -> None:
    """Heads whose features together are more than the hidden size, as in Qwen3."""
    recipe = _recipe("qwen3")
    model = recipe.model
    assert model.heads * model.resolved_head_size == 40
    weights = body_parameters(recipe) + recipe.padded_vocab_size * 32
    assert text_token_flops(recipe) == 6.0 * weights + 12.0 * 2 * 24 * 40


@pytest.mark.parametrize(
    ("model", "parallel", "message"),
    [
        ({"kv_heads": 3}, {}, "found heads=4 and kv_heads=3"),
        ({"positions": "rotary", "head_size": 5}, {}, "found positions=rotary and heads of 5 features"),
        (
            {"heads": 16, "kv_heads": 8, "head_size": 2},
            {"tensor_parallel_size": 16, "sequence_parallel_size": 2},
            "found tensor_parallel_size=16, sequence_parallel_size=2 and model.heads=16; expected heads divisible",
        ),
        (
            {"heads": 12, "kv_heads": 4, "head_size": 2},
            {"tensor_parallel_size": 6},
            "tensor_parallel_size: found 6 and model.kv_heads=4; expected one that divides the other",
        ),
        (
            {"positions": "rotary", "rotary_scaling": {"kind": "yarn", "factor": 4, "beta_fast": 1}},
            {},
            r"beta_fast: found 1; expected more than beta_slow \(1\)",
        ),
        ({"ffn_size": 33}, {"tensor_parallel_size": 2}, "tensor_parallel_size: found 2 and model.ffn_size=33"),
    ],
)
def test_what_does_not_fit_together(model: dict[str, Any], parallel: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _recipe("gpt2", parallel, **model)


def _recipe(family: str, parallel: dict[str, Any] | None = None, **options: Any) -> Recipe:
    model = config_of(family).model_dump(mode="json") | options
    return tiny_recipe(Path("no-data"), model=model, parallel=parallel or {})
