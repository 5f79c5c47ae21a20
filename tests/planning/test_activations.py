"""What a plan counts is what autograd keeps, on a CPU."""

from typing import Any

import pytest
import torch

from prealign.config.model import ModelConfig
from prealign.model.gpt import GPT, Recomputation
from prealign.model.layout import Group, Layout
from prealign.planning.activations import kept_bytes
from tests.model.families import FAMILIES

ROWS = 2
SHAPE: dict[str, Any] = {"layers": 5, "hidden_size": 96, "heads": 4, "context": 64, "attention": "sdpa"}
KINDS = FAMILIES | {"rotary": {"positions": "rotary"}, "llama without groups": FAMILIES["llama"] | {"kv_heads": 4}}


class FirstOf:
    """The first of so many tensor ranks."""

    rank = 0

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


def split(gpt: GPT, ranks: int) -> None:
    """Make its layers what a tensor rank holds of them, and computes."""
    for block in gpt.blocks:
        if block.attention.kv.kv_heads % ranks:
            block.attention.kv.tensor_ranks = FirstOf(ranks)
        else:
            block.attention.kv.weight.data = block.attention.kv.weight.data.chunk(ranks)[0]
        for layer in (block.attention.q, block.mlp.up, block.mlp.gate):
            layer.weight.data = layer.weight.data.chunk(ranks)[0]
        for layer in (block.attention.out, block.mlp.down):
            layer.weight.data = layer.weight.data.chunk(ranks, dim=1)[0]


def saved_bytes(model: ModelConfig, dtype: torch.dtype, every: int | None, ranks: int = 1) -> int:
    """Bytes of the storages that autograd saves, but for parameters."""
    gpt = GPT(model, 97, Recomputation(every, every), words_after_norm=True).to(dtype)
    if ranks > 1:
        split(gpt, ranks)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in gpt.parameters()}
    seen: dict[int, int] = {}
    kept = []  # storages stay alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    ids = torch.randint(0, 97, (ROWS * model.context,))
    positions = torch.arange(model.context).repeat(ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gpt(ids, positions, Layout((Group(ROWS, model.context),)))
    return sum(seen.values())


@pytest.mark.parametrize("every", [None, 1, 2], ids=["kept", "recomputed", "every second recomputed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_that_autograd_keeps(kind: str, dtype: torch.dtype, every: int | None) -> None:
    model = ModelConfig(**SHAPE | {"ffn_multiple": 3} | KINDS[kind])
    expected = saved_bytes(model, dtype, every) / (ROWS * model.context)
    assert kept_bytes(model, dtype.itemsize, every, fused_norms=False) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["llama, one key-value head", "qwen3"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_ranks_of_few_heads_of_keys_and_values(kind: str, ranks: int) -> None:
    """But for the weights of a rank's own head, a copy of 2 x head_size x hidden_size elements a block."""
    model = ModelConfig(**SHAPE | {"context": 512} | FAMILIES[kind])
    expected = saved_bytes(model, torch.bfloat16, None, ranks) / (ROWS * model.context)
    assert kept_bytes(model, 2, None, ranks, fused_norms=False) == pytest.approx(expected, rel=0.05)


def test_a_block_of_gpt2_keeps_sixteen_times_its_input() -> None:
    """Beside statistics in fp32 (Korthikanti et al. 2022 count 34 D bytes with masks of dropout, of which there are
    none)."""
    model = ModelConfig(layers=1, hidden_size=2048, heads=16)
    blocks = kept_bytes(model.model_copy(update={"layers": 2}), 2, None) - kept_bytes(model, 2, None)
    assert blocks == pytest.approx(32 * 2048, rel=0.01)


def test_tensor_ranks_keep_parts_of_what_is_split() -> None:
    """Norms are whole on each: 4 D of 16 D; the rest is divided."""
    model = ModelConfig(layers=1, hidden_size=2048, heads=16)
    assert kept_bytes(model, 2, None, tensor_size=4) == pytest.approx(2 * 2048 * (4 + 12 / 4 + 1), rel=0.01)
