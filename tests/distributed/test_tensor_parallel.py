"""Weights split over tensor ranks: what each holds, equal losses, and checkpoints that pass between sizes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign.config import Recipe
from prealign.data.word_batches import WordBatch
from prealign.distributed import engine as engines
from prealign.distributed.engine import build_engine
from prealign.distributed.pieces import shard_of
from prealign.distributed.tensor_parallel import Shard
from prealign.distributed.weights import Weights, save_weights
from prealign.distributed.world import dp_size
from prealign.errors import UserError
from prealign.model.initialisation import initial_value
from prealign.model.layout import Layout as Rows
from prealign.model.shapes import vocabulary_ranks
from prealign.objectives.inputs import ModelInputs, text_inputs, word_inputs
from prealign.objectives.joint import JointModel
from tests.conftest import tiny_recipe
from tests.distributed.engines import (
    BATCH,
    Layout,
    checkpoints_of,
    engine_of,
    measured,
    micro_batch,
    recipe_of,
    rows_of,
    train,
    words_of,
    world_of,
)
from tests.processes import on_ranks

QKV, UP, OUT = "gpt.blocks.0.attention.qkv.weight", "gpt.blocks.0.mlp.up.bias", "gpt.blocks.3.attention.out.weight"
KV = "gpt.blocks.1.attention.kv.weight"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_shard_is_what_splitting_the_matrix_gives(ranks: int) -> None:
    qkv, up, out = torch.arange(24 * 5).view(24, 5), torch.arange(8), torch.arange(7 * 12).view(7, 12)
    kv, rows = torch.arange(16 * 3).view(16, 3), torch.arange(20 * 3).view(20, 3)
    for rank in range(ranks):
        parts = [part.chunk(ranks)[rank] for part in qkv.chunk(3)]
        for name, whole, part in [
            (QKV, qkv, torch.cat(parts)),
            (KV, kv, torch.cat([part.chunk(ranks)[rank] for part in kv.chunk(2)])),
            (UP, up, up.chunk(ranks)[rank]),
            (OUT, out, out.chunk(ranks, dim=1)[rank]),
            ("head.weight", rows, rows.chunk(ranks)[rank]),
        ]:
            shard = Shard.of(name, part.shape[0], rank, ranks)
            places = torch.arange(part.numel())
            assert torch.equal(shard.to_whole(places, whole.numel()), part.flatten())
            assert shard.whole_shape(name, part.shape) == list(whole.shape)
            back, held = shard.from_whole(part.flatten(), whole.numel())
            assert torch.equal(back, places)
            assert held.all()
            assert int(shard.from_whole(whole.flatten(), whole.numel())[1].sum()) == part.numel()


@pytest.mark.parametrize(
    "name", ["gpt.blocks.0.attention.out.bias", "gpt.norm.weight", "gpt.embedding.positions.weight"]
)
def test_the_rest_is_replicated(name: str) -> None:
    assert Shard.of(name, 8, 1, 2) == Shard()


def value_of(name: str, shape: torch.Size, recipe: Recipe) -> torch.Tensor:
    """First weights, with biases and norms that are not trivial."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
    return initial_value(name, shape, recipe) + 0.1 * noise


def plain_model(recipe: Recipe) -> JointModel:
    model = JointModel(recipe)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(value_of(name, parameter.shape, recipe))
    return model


def inputs_of(rows: torch.Tensor, passes: int = 1, words: WordBatch | None = None) -> ModelInputs:
    text = text_inputs(micro_batch(rows), torch.device("cpu"), None)
    local = word_inputs(words, 0, 1) if words is not None else None
    return ModelInputs(text, local, torch.tensor(text.targets.numel()), passes)


def plain_steps(recipe: Recipe, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and gradient norms of training on text and words with torch alone, and the weights after it."""
    model, found = plain_model(recipe), []
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step in range(steps):
        optimizer.zero_grad()
        outputs = model(inputs_of(rows_of(recipe, step), words=words_of(recipe, step)))
        outputs["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        optimizer.step()
        (nats, targets), (aligned, _) = outputs["sums"]["lm_loss"], outputs["sums"]["align_loss"]
        found += [float(nats / targets), float(aligned), norm.item()]
    return found, {name: parameter.detach() for name, parameter in model.named_parameters()}


def compare_steps(rank: int, ranks: int, folder: str, layouts: list[Layout]) -> None:
    """Losses of text and words, gradient norms and weights of three steps are those of torch alone."""
    for layout in layouts:
        world, recipe = world_of(rank, ranks, layout.tp_size, layout.sp_size), recipe_of(layout)
        expected, weights = plain_steps(recipe, 3)
        engine = build_engine(recipe, world, partial(value_of, recipe=recipe), lambda step: 1e-2 / (step + 1))
        rows = measured(engine, recipe, world, 0, 3, words=True)
        found = [row[key] for row in rows for key in ("lm_loss", "align_loss", "gradient_norm")]
        assert found == pytest.approx(expected, rel=1e-5), layout
        held, split = engine.module.head.weight, vocabulary_ranks(recipe.padded_vocab_size, layout.tp_size)
        assert getattr(held, "ds_shape", held.shape)[0] == recipe.padded_vocab_size // split
        save_weights(engine, world, Path(folder), {})
        read = Weights(Path(folder)).value
        for name, value in weights.items():
            if name.endswith("qkv.bias"):
                continue  # gradients of keys' biases are rounding alone, which Adam enlarges
            apart = float((read(name, value.shape) - value).norm() / value.norm())  # Adam enlarges what is near zero
            assert apart < 1e-4, (layout, name)


def compare_gradients(rank: int, ranks: int, layouts: list[Layout]) -> None:
    """Logits and gradients of a row, on tensor ranks without ZeRO, are those of torch alone."""
    for layout in layouts:
        world, recipe = world_of(rank, ranks, layout.tp_size), recipe_of(layout)
        row, model = rows_of(recipe, 0)[:1], plain_model(recipe)
        engine = build_engine(recipe, world, partial(value_of, recipe=recipe), lambda step: 1e-2)
        logits = logits_of(model, row)
        own = logits.chunk(vocabulary_ranks(logits.shape[1], ranks), dim=1)[rank]
        close(logits_of(engine.module, row), own, f"{layout} logits")
        model(inputs_of(row))["loss"].backward()
        engine.backward(engine(inputs_of(row, passes=BATCH))["loss"])
        expected = {name: parameter.grad.flatten() for name, parameter in model.named_parameters()}
        for name, parameter in engine.module.named_parameters():
            held = shard_of(engine, name, parameter).to_whole(torch.arange(parameter.numel()), expected[name].numel())
            close(parameter.grad.flatten(), expected[name][held], f"{layout} {name}")


def logits_of(model: JointModel, rows: torch.Tensor) -> torch.Tensor:
    text = inputs_of(rows).text
    hidden, _ = model.gpt(text.ids, text.positions, Rows((text.group,)))
    return (hidden @ model.head.weight.T).detach()


def close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Within 1e-5 of the largest."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()), msg=what)


LLAMA = Layout(1, hidden_size=16, heads=4, llama=True)
QWEN3 = replace(LLAMA, kv_heads=1, qwen=3)
GPT2 = Layout(1)
KINDS = [replace(LLAMA, context=8, kv_heads=kv, qwen=qwen) for kv in (1, 2, 4) for qwen in (0, 2, 3)]


def test_heads_and_norms_that_tensor_ranks_share(tmp_path: Path) -> None:
    """One head of keys and values on two ranks; norms of queries and keys; of the vocabulary each has half, in one
    matrix and in two."""
    layouts = [replace(QWEN3, stage=1, tp_size=2, tied=True), replace(LLAMA, stage=3, tp_size=2, kv_heads=1, qwen=2)]
    on_ranks(compare_steps, 2, str(tmp_path / "weights"), layouts)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "sequence"), [(2, 1), (4, 1), (4, 2)])
def test_steps_with_a_shared_vocabulary(tmp_path: Path, ranks: int, sequence: int) -> None:
    """With every ZeRO stage, one matrix or two, and a vocabulary of 1,201 rows, which two ranks do not divide."""
    model = Layout(0, context=8, hidden_size=16, heads=4, tp_size=2, sp_size=sequence)
    kinds = [model, replace(model, tied=True), replace(model, vocab_multiple=1201)]
    layouts = [replace(kind, stage=stage) for kind in kinds for stage in range(4)]
    on_ranks(compare_steps, ranks, str(tmp_path / "weights"), layouts)


def compare_bf16(rank: int, ranks: int, layouts: list[Layout]) -> list[list[float]]:
    """How far gradient norms and losses of bf16 are from torch in fp32, relatively, for each layout."""
    found = []
    for layout in layouts:
        world, recipe = world_of(rank, ranks, layout.tp_size), recipe_of(layout)
        expected, _ = plain_steps(recipe, 3)
        engine = build_engine(recipe, world, partial(value_of, recipe=recipe), lambda step: 1e-2 / (step + 1))
        rows = measured(engine, recipe, world, 0, 3, words=True)
        values = [row[key] for row in rows for key in ("lm_loss", "align_loss", "gradient_norm")]
        found.append([abs(value / truth - 1) for value, truth in zip(values, expected)])
    return found


@pytest.mark.slow
def test_bf16_is_as_near_as_on_one_rank() -> None:
    kinds = [replace(GPT2, stage=stage, precision="bf16", tied=stage == 1) for stage in range(4)]
    alone = on_ranks(compare_bf16, 1, kinds)[0]
    split = on_ranks(compare_bf16, 2, [replace(kind, tp_size=2) for kind in kinds])[0]
    for kind, one, two in zip(kinds, alone, split):
        assert max(two) < max(2 * max(one), 2e-3), (kind, one, two)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_gradients_of_every_number_of_heads(ranks: int) -> None:
    on_ranks(compare_gradients, ranks, [replace(kind, stage=0, tp_size=ranks) for kind in KINDS])


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "sequence"), [(4, 1), (2, 2), (2, 1)])
def test_steps_of_every_number_of_heads(tmp_path: Path, tensor: int, sequence: int) -> None:
    layouts = [
        replace(kind, stage=number % 4, tp_size=tensor, sp_size=sequence)
        for number, kind in enumerate([*KINDS, *KINDS[3:], *KINDS[:3]])  # each with two stages, one of them odd
    ]
    on_ranks(compare_steps, 4, str(tmp_path / "weights"), layouts)


def pass_on(
    rank: int, ranks: int, base: str, layouts: list[Layout], first: int, last: int
) -> list[tuple[list[float], dict[str, np.ndarray]]]:
    """Of each layout, go on from step ``first``, written by any, save step ``last``, and return losses and weights."""
    found = []
    for number, layout in enumerate(layouts):
        world, recipe = world_of(rank, ranks, layout.tp_size), recipe_of(layout)
        folder = Path(base) / str(number)
        checkpoints = checkpoints_of(folder, recipe, world)
        engine = engine_of(recipe, world)
        before = checkpoints.find()
        assert (before is not None) == (first > 0)
        if before is not None:
            checkpoints.load(engine, before)
        losses = train(engine, recipe, world, first, last)
        checkpoints.save(engine, last, {})
        save_weights(engine, world, folder / "weights", {})
        shapes = {name: torch.Size(shape) for name, shape in checkpoints.find().manifest["parameters"].items()}
        read = Weights(folder / "weights").value
        found.append((losses, {name: read(name, shape).numpy() for name, shape in shapes.items()}))
    return found


COURSES = [
    ([GPT2, QWEN3], [(1, 1, 1), (2, 1, 2), (1, 1, 1)]),
    ([GPT2], [(4, 2, 2), (2, 0, 2), (2, 3, 2), (2, 2, 1)]),
    ([LLAMA, QWEN3, replace(LLAMA, qwen=2)], [(2, 1, 2), (1, 1, 1), (4, 3, 2), (4, 1, 4), (2, 0, 2), (4, 3, 4)]),
]
"""Models, and ranks, ZeRO stage and tensor ranks of each part."""


@pytest.mark.parametrize(
    ("models", "course"),
    [COURSES[0], pytest.param(*COURSES[1], marks=pytest.mark.slow), pytest.param(*COURSES[2], marks=pytest.mark.slow)],
    ids=["tensor 1-2-1", "and ZeRO and data", "Llama and Qwen"],
)
def test_checkpoints_pass_between_tensor_sizes(
    tmp_path: Path, models: list[Layout], course: list[tuple[int, int, int]]
) -> None:
    steps = 2 * len(course)
    undisturbed = on_ranks(pass_on, 1, str(tmp_path / "undisturbed"), models, 0, steps)[0]
    losses: list[list[float]] = [[] for _ in models]
    for number, (ranks, stage, tensor) in enumerate(course):
        layouts = [replace(model, stage=stage, tp_size=tensor) for model in models]
        found = on_ranks(pass_on, ranks, str(tmp_path / "course"), layouts, 2 * number, 2 * number + 2)[0]
        for part, (more, _) in zip(losses, found):
            part += more
    for model, part, (_, last), (expected, weights) in zip(models, losses, found, undisturbed):
        assert part == pytest.approx(expected, rel=1e-6), model
        for name, value in weights.items():
            # gradients of GPT-2's biases of keys are rounding alone, which Adam enlarges
            np.testing.assert_allclose(last[name], value, rtol=1e-4, atol=5e-5, err_msg=f"{model} {name}")


def write_whole_tables(rank: int, ranks: int, base: str, layouts: list[Layout]) -> None:
    """As tensor ranks did that held every row of the vocabulary."""
    engines.vocabulary_ranks = lambda vocab_size, tensor_size: 1
    pass_on(rank, ranks, base, layouts, 0, 2)


@pytest.mark.slow
def test_checkpoints_whose_tables_every_rank_held(tmp_path: Path) -> None:
    layouts = [replace(GPT2, stage=stage, tp_size=2) for stage in range(4)]
    undisturbed = on_ranks(pass_on, 2, str(tmp_path / "undisturbed"), layouts, 0, 4)[0]
    on_ranks(write_whole_tables, 2, str(tmp_path / "course"), layouts)
    found = on_ranks(pass_on, 2, str(tmp_path / "course"), layouts, 2, 4)[0]
    for layout, (losses, weights), (expected, values) in zip(layouts, found, undisturbed):
        assert losses == pytest.approx(expected[2:], rel=1e-6), layout
        for name, value in values.items():
            np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=5e-5, err_msg=f"{layout} {name}")


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensor_parallel_size=4, sequence_parallel_size=1 and model.heads=2"):
        tiny_recipe(tmp_path, parallel={"tensor_parallel_size": 4})
    with pytest.raises(UserError, match="sequence_parallel_size=1 on 3 ranks"):
        dp_size(3, 2, 1)
