"""Compiled passes: tried before the first step, on all ranks alike, and left out where that fails."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from prealign.config import Recipe
from prealign.config.stage import Stage, pretrain_stage, stage_of
from prealign.objectives.inputs import ModelInputs, text_inputs
from prealign.training.compilation import compile_passes
from prealign.training.run import comparable
from tests.conftest import tiny_recipe
from tests.distributed import engines
from tests.processes import on_ranks

ON_CUDA = mock.patch.object(Stage, "compiles", return_value=True)
"""Stages decide as on a CUDA device, with ``auto``."""


def recipe_of(zero_stage: int = 1, **changes: Any) -> Recipe:
    return engines.recipe_of(engines.Layout(zero_stage, **changes))


@pytest.mark.parametrize(
    ("changes", "compiles"),
    [
        ({}, True),
        ({"parallel": {"zero_stage": 2}}, False),
        ({"parallel": {"zero_stage": 3}}, False),
        ({"parallel": {"tensor_parallel_size": 2}}, False),
        ({"parallel": {"sequence_parallel_size": 2}}, False),
        ({"parallel": {"compile": False}}, False),
        ({"pretrain": {"align_every": 4}}, False),
        ({"model": {"layers": 2, "hidden_size": 32, "heads": 2, "reset_at_document": True}}, False),
    ],
)
def test_a_cuda_device_compiles_by_default(changes: dict[str, Any], compiles: bool) -> None:
    recipe = tiny_recipe(Path("no-data"), **changes)
    assert pretrain_stage(recipe).compiles(on_cuda=True) is compiles
    assert not pretrain_stage(recipe).compiles(on_cuda=False)
    assert not stage_of(recipe, "align").compiles(on_cuda=True)


def test_true_compiles_anywhere() -> None:
    for asked in ({"compile": True}, {"compile": True, "tensor_parallel_size": 2}):
        assert pretrain_stage(tiny_recipe(Path("no-data"), parallel=asked)).compiles(on_cuda=False)


def losses_of(
    rank: int, ranks: int, zero_stage: int, precision: str, backend: str, fails_on: int | None
) -> tuple[list[float], bool, list[str], int, bool]:
    """Losses of three steps, whether they were compiled, lines, graphs that were compiled, and whether the trial left
    gradients and random numbers as they were. ``backend``: none: nothing is asked for."""
    world = engines.world_of(rank, ranks)
    recipe = recipe_of(zero_stage, precision=precision, hidden_size=16)
    engine = engines.engine_of(recipe, world)
    compiled, lines, graphs, untouched = False, [], 0, True
    if backend:

        def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
            nonlocal graphs
            graphs += 1
            if rank == fails_on:
                raise RuntimeError("Failed to find\nC compiler.")
            return graph.forward

        before = torch.get_rng_state()
        with ON_CUDA:
            by = counting if backend == "eager" else backend
            compiled = compile_passes(engine, pretrain_stage(recipe, world.dp_size), world, lines.append, by)
        untouched = torch.equal(before, torch.get_rng_state())
        untouched &= all(parameter.grad is None for parameter in engine.module.parameters())
    return engines.train(engine, recipe, world, 0, 3), compiled, lines, graphs, untouched


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [
        (1, "bf16"),
        (1, "fp32"),
        pytest.param(0, "bf16", marks=pytest.mark.slow),
        pytest.param(0, "fp32", marks=pytest.mark.slow),
        pytest.param(2, "bf16", marks=pytest.mark.slow),
    ],
)
def test_compiled_passes_give_the_same_losses(zero_stage: int, precision: str) -> None:
    ((plain, *_),) = on_ranks(losses_of, 1, zero_stage, precision, "", None)
    ((losses, compiled, lines, graphs, untouched),) = on_ranks(losses_of, 1, zero_stage, precision, "eager", None)
    assert (compiled, lines) == (True, ["pretrain: passes run through torch.compile"])
    assert untouched
    assert graphs == 1  # of the trial; every step takes it
    assert losses == pytest.approx(plain, rel=1e-6)


@pytest.mark.slow
def test_inductor_gives_the_same_losses() -> None:
    ((plain, *_),) = on_ranks(losses_of, 1, 1, "fp32", "", None)
    ((losses, compiled, *_),) = on_ranks(losses_of, 1, 1, "fp32", "inductor", None)
    assert compiled
    assert losses == pytest.approx(plain, rel=1e-5)


def test_ranks_agree_where_one_of_them_cannot_compile() -> None:
    plain = on_ranks(losses_of, 2, 1, "fp32", "", None)
    found = on_ranks(losses_of, 2, 1, "fp32", "eager", 1)
    for (losses, compiled, lines, _, untouched), (expected, *_) in zip(found, plain):
        assert not compiled
        assert untouched
        assert losses == expected
        (line,) = lines
        assert line.startswith("pretrain: torch.compile failed on rank 1 (BackendCompilerFailed: ")
        assert "Failed to find C compiler." in line
        assert "TORCHDYNAMO" not in line
        assert line.endswith("); training goes on uncompiled; parallel.compile=false leaves it out")


def modes(rank: int, ranks: int) -> list[int]:
    """Graphs compiled after the trial, after an evaluation of other sizes, and after a stage that does not compile."""
    world, recipe = engines.world_of(rank, ranks), recipe_of()
    engine, graphs = engines.engine_of(recipe, world), []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    with ON_CUDA:
        compile_passes(engine, pretrain_stage(recipe), world, print, counting)
    counts = [len(graphs)]
    engine.eval()
    for rows in (1, 3):
        text = text_inputs(engines.micro_batch(engines.rows_of(recipe, 0)[:rows]), world.device, None)
        with torch.no_grad():
            engine(ModelInputs(text, None))
    engine.train()
    counts.append(len(graphs))
    compile_passes(engine, stage_of(recipe, "align"), world, print, counting)
    engines.train(engine, recipe, world, 0, 1)
    return [*counts, len(graphs)]


def test_evaluations_and_other_stages_run_uncompiled() -> None:
    assert on_ranks(modes, 1) == [[1, 1, 1]]


def test_true_is_not_tried() -> None:
    recipe = recipe_of()
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"compile": True})})
    (found,) = on_ranks(asked_for, 1, recipe)
    assert found == (True, [], 0)


def asked_for(rank: int, ranks: int, recipe: Recipe) -> tuple[bool, list[str], int]:
    """Whether passes are compiled, lines, and graphs compiled so far."""
    world = engines.world_of(rank, ranks)
    engine, lines, graphs = engines.engine_of(recipe, world), [], []
    compiled = compile_passes(engine, pretrain_stage(recipe), world, lines.append, lambda graph, _: graphs.append(1))
    return compiled, lines, len(graphs)


def test_a_run_goes_on_whatever_it_says_of_compiling() -> None:
    """Recipes of before said ``false`` or ``true``."""
    recipes = [tiny_recipe(Path("no-data"), parallel={"compile": asked}) for asked in ("auto", False, True)]
    first, *others = [comparable(recipe) for recipe in recipes]
    assert others == [first, first]
    assert tiny_recipe(Path("no-data")).parallel.compile == "auto"
