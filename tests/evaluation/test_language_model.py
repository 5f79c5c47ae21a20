"""Perplexity against scipy's log-softmax on the same windows, and of models with a known one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from prealign.data.prepared import open_data
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.evaluation.language_model import evaluate_language
from prealign.model.layout import Group, Layout
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of
from tests.processes import on_ranks


@pytest.mark.parametrize(("tokens", "stride"), [(10, None), (1000, None), (10**9, None), (1000, 8), (1003, 5), (10, 3)])
def test_perplexity_and_bits_per_byte(data_dir: Path, tokens: int, stride: int | None) -> None:
    recipe = tiny_recipe(data_dir, evaluation={"tokens": tokens, "stride": stride})
    data = open_data(recipe)
    model = model_of(recipe)
    result = evaluate_language(model, recipe, data, ONE, "clone")
    assert result is not None

    store = torch.from_numpy(data.heldout("clone").tokens.astype("int64"))
    context, step = recipe.model.context, stride or recipe.model.context
    predicted = min(len(store) - 1, tokens)
    nats, count = 0.0, 0
    for begin in range(0, predicted, step):
        ids = store[begin : min(begin + context, predicted) + 1]
        if begin and len(ids) <= context:  # no whole window is left
            break
        with torch.no_grad():
            hidden, _ = model.gpt(ids[:-1], torch.arange(len(ids) - 1), Layout((Group(1, len(ids) - 1),)))
        logs = log_softmax((hidden @ model.head.weight.T).double().numpy(), axis=1)
        new = np.arange(context - step if begin else 0, len(ids) - 1)
        nats -= logs[new, ids[1:][new]].sum()
        count += len(new)
    assert result.tokens == count
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    text = data.tokenizer.decode([token - 600 for token in store[1 : count + 1].tolist()])
    size = len(text.replace("<|endoftext|>", "").encode())
    assert result.bytes == pytest.approx(size, abs=3)  # a character may be cut by the last window
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.bytes, rel=1e-5)


def test_windows_that_would_leave_tokens_out_are_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.stride: found 33; expected at most model\.context \(32\)"):
        tiny_recipe(data_dir, evaluation={"stride": 33})


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    model = model_of(recipe)
    model.head.weight.zero_()
    for language in ("en", "clone"):
        result = evaluate_language(model, recipe, open_data(recipe), ONE, language)
        assert result is not None
        assert result.perplexity == pytest.approx(recipe.padded_vocab_size, rel=1e-5)


def shared(rank: int, ranks: int, data_dir: Path) -> tuple[float, int, int]:
    torch.set_num_threads(1)
    recipe = tiny_recipe(data_dir)
    result = evaluate_language(model_of(recipe), recipe, open_data(recipe), World(rank, ranks, ONE.device), "en")
    assert result is not None
    return result.nats, result.tokens, result.bytes


def test_ranks_share_the_windows(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    alone = evaluate_language(model_of(recipe), recipe, open_data(recipe), ONE, "en")
    assert alone is not None
    for nats, tokens, size in on_ranks(shared, 2, data_dir):
        assert nats == pytest.approx(alone.nats, rel=1e-6)
        assert (tokens, size) == (alone.tokens, alone.bytes)
