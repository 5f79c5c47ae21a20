"""What any layout of ranks and ZeRO stage writes, the same layout continues bit for bit and any other one within
rounding."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.engines import Layout, checkpoints_of, engine_of, recipe_of, state_digest, train, world_of
from tests.processes import on_ranks

SAVED, LAST = 3, 6
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}
FP32 = [Layout(stage) for stage in range(4)]
BF16 = [Layout(stage, "bf16") for stage in range(4)]


def folder_of(base: str, ranks: int, layout: Layout) -> Path:
    return Path(base) / f"{ranks}-{layout.precision}-{layout.stage}"


def write_and_continue(rank: int, ranks: int, base: str, layouts: list[Layout]) -> dict[Layout, list[float]]:
    """Save in the middle; then go back to it twice, in the engine that wrote it and in a new one."""
    world = world_of(rank, ranks)
    losses = {}
    for layout in layouts:
        recipe = recipe_of(layout)
        checkpoints = checkpoints_of(folder_of(base, ranks, layout), recipe, world)
        engine = engine_of(recipe, world)
        before = train(engine, recipe, world, 0, SAVED)
        checkpoints.save(engine, SAVED, {"note": "é"})
        saved = state_digest(engine)
        after, end = train(engine, recipe, world, SAVED, LAST), state_digest(engine)
        found = checkpoints.find()
        assert found is not None
        assert found.state == {"note": "é"}
        for which in ("the same engine", "a new engine"):
            if which == "a new engine":
                engine = engine_of(recipe, world)
            checkpoints.load(engine, found)
            assert state_digest(engine) == saved, (layout, which)
            assert train(engine, recipe, world, SAVED, LAST) == after, (layout, which)
            assert state_digest(engine) == end, (layout, which)
            assert engine.global_steps == LAST
        losses[layout] = before + after
    return losses


def read_and_continue(
    rank: int, ranks: int, base: str, written_by: int, pairs: list[tuple[Layout, Layout]]
) -> dict[tuple[Layout, Layout], list[float]]:
    world = world_of(rank, ranks)
    losses = {}
    for source, target in pairs:
        recipe = recipe_of(target)
        checkpoints = checkpoints_of(folder_of(base, written_by, source), recipe, world)
        found = checkpoints.find()
        assert found is not None
        engine = engine_of(recipe, world)
        checkpoints.load(engine, found)
        losses[source, target] = train(engine, recipe, world, SAVED, LAST)
    return losses


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("elastic"))


@pytest.fixture(scope="module")
def written(base: str) -> dict[Layout, list[float]]:
    """Losses of two ranks, by layout; their checkpoints are in ``base``."""
    return on_ranks(write_and_continue, 2, base, FP32 + BF16)[0]


def test_the_same_layout_continues_bit_for_bit(written: dict[Layout, list[float]]) -> None:
    for layout in FP32:
        assert written[layout] == pytest.approx(written[FP32[0]], rel=1e-5)
    for layout in BF16:  # bf16 starts where fp32 does, whatever DeepSpeed's wrapper does to its optimizer on the way
        assert written[layout] == pytest.approx(written[FP32[0]], rel=5e-3)


SOME_PAIRS = [(FP32[0], FP32[3]), (FP32[1], FP32[2]), (FP32[2], FP32[0]), (FP32[3], FP32[1]), (BF16[1], BF16[3])]
ALL_PAIRS = [(source, target) for layouts in (FP32, BF16) for source in layouts for target in layouts]


@pytest.mark.parametrize(
    ("ranks", "pairs"),
    [
        (1, SOME_PAIRS),
        pytest.param(4, SOME_PAIRS, marks=pytest.mark.slow),
        pytest.param(1, ALL_PAIRS, marks=pytest.mark.slow),
        pytest.param(2, ALL_PAIRS, marks=pytest.mark.slow),
        pytest.param(4, ALL_PAIRS, marks=pytest.mark.slow),
    ],
    ids=lambda value: f"{value} ranks" if isinstance(value, int) else f"{len(value)} pairs of stages",
)
def test_other_ranks_and_stages_continue_within_rounding(
    base: str, written: dict[Layout, list[float]], ranks: int, pairs: list[tuple[Layout, Layout]]
) -> None:
    losses = on_ranks(read_and_continue, ranks, base, 2, pairs)[0]
    for (source, target), found in losses.items():
        tolerance = 1e-4 if source.precision == "fp32" else 5e-3
        assert found == pytest.approx(written[source][SAVED:], rel=tolerance), (source, target)


def with_section(rank: int, ranks: int, base: str, layout: Layout, section: dict[str, Any]) -> list[float]:
    """As `write_and_continue`, with something in DeepSpeed's own ``zero_optimization`` section."""
    world = world_of(rank, ranks)
    recipe = recipe_of(layout).model_copy(update={"deepspeed": {"zero_optimization": section}})
    checkpoints = checkpoints_of(Path(base), recipe, world)
    engine = engine_of(recipe, world)
    before = train(engine, recipe, world, 0, SAVED)
    checkpoints.save(engine, SAVED, {})
    after = train(engine, recipe, world, SAVED, LAST)
    engine = engine_of(recipe, world)
    checkpoints.load(engine, checkpoints.find())
    assert train(engine, recipe, world, SAVED, LAST) == after
    return before + after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "layout", "section"),
    [
        (2, Layout(2), OFFLOADED),
        (2, Layout(3), OFFLOADED | {"offload_param": {"device": "cpu"}}),
        (4, Layout(3), {"zero_hpz_partition_size": 2}),
        (2, Layout(2, "bf16"), OFFLOADED),
        (2, Layout(3, "bf16"), OFFLOADED),
    ],
    ids=["offload", "offload with weights", "hierarchical partition", "offload, bf16", "offload, ZeRO 3, bf16"],
)
def test_offload_and_hierarchical_partition(
    tmp_path: Path, written: dict[Layout, list[float]], ranks: int, layout: Layout, section: dict[str, Any]
) -> None:
    losses = on_ranks(with_section, ranks, str(tmp_path), layout, section)[0]
    assert losses == pytest.approx(written[FP32[0]], rel=1e-5 if layout.precision == "fp32" else 5e-3)
