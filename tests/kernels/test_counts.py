"""What a step of the alignment loss costs, counted without a GPU: products, waits for the device, memory.

Tensors on the `meta` device have shapes and no values: an operation that a GPU would have to be waited for (a number
read from it, a size that depends on data) is an error there.
"""

import pytest
import torch

from prealign.kernels import infonce, passes, planned, shard
from prealign.kernels.benchmarks.problems import many_positives
from prealign.kernels.rank_plan import RankPlan
from prealign.kernels.relations import Relations
from tests.kernels.counting import Launches, LiveBytes
from tests.kernels.test_infonce import sparse_relations

infonce_triton = pytest.importorskip("prealign.kernels.infonce_triton")
symmetric_triton = pytest.importorskip("prealign.kernels.symmetric_triton")
META = torch.device("meta")
GB = 1e9


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, Launches]:
    """Kernels that are recorded in place of being run, and a product that takes what the GPU's takes."""
    found = {name: Launches() for name in ("_lse_kernel", "_matrix_kernel", "_special_kernel", "_product_kernel")}
    for name, recorder in found.items():
        monkeypatch.setattr(symmetric_triton, name, recorder)
    monkeypatch.setattr(symmetric_triton, "_finalise_kernel", Launches())
    options = {"TMA": False, "DEPTH": 64, "num_warps": 8, "num_stages": 3}
    shapes = lambda z: dict(zip(("ROWS", "COLUMNS"), symmetric_triton.tile_shape(len(z))))  # noqa: E731
    monkeypatch.setattr(symmetric_triton, "_options", lambda z: options | shapes(z))
    monkeypatch.setattr(symmetric_triton, "product_into", lambda left, right, out: out)
    return found


def relations_of(words: int) -> Relations:
    """Groups of five words, planned on the CPU, without values from there on."""
    relations = many_positives(1, words, 8, 0.1, torch.bfloat16, torch.device("cpu")).relations
    return planned(relations, include_self=False).to(META)


def both_passes(layers: int, words: int, size: int) -> LiveBytes:
    """Forward and backward without values; what they had in memory beyond vectors and gradients, at most."""
    relations = relations_of(words)
    z = [torch.empty((words, size), dtype=torch.bfloat16, device=META) for _ in range(layers)]
    upstream = torch.ones(layers, device=META)
    assert relations.plan is not None
    plan = relations.plan.tensors()
    live = LiveBytes()
    with live:
        forward = infonce._symmetric_plan(z, relations, plan, 0.1, False, "", "triton")
        assert forward is not None
        _, _, lse = symmetric_triton.forward(z, relations, forward, 0.1)
        assert symmetric_triton.matrix_fits(words)
        backward = infonce._symmetric_plan(z, relations, plan, 0.1, False, "", "triton", whole=True)
        assert backward is not None
        gradients = symmetric_triton.backward(upstream, z, lse, relations, backward, 0.1)
    assert {gradient.device for gradient in gradients} == {META}
    live.peak -= sum(gradient.nbytes for gradient in gradients)
    return live


def test_half_the_tiles_in_both_passes(launches: dict[str, Launches]) -> None:
    """4,160 of 8,192 tiles of 128 x 256 pairs at 16,384 words, two launches a layer: two products with the gradient's
    in place of three. With a plan nothing waits for the device, which ``META`` would refuse."""
    both_passes(2, 16_384, 8)
    assert 16_384 // 128 * 16_384 // 256 == 8192
    assert launches["_lse_kernel"].grids == [(4160,)] * 2
    assert launches["_matrix_kernel"].grids == [(4160,)] * 2
    assert len(launches["_special_kernel"].grids) == len(launches["_product_kernel"].grids) == 2


def test_waits_are_errors_without_values() -> None:
    """What the test above relies on: planning on the device would be found."""
    relations = relations_of(64)
    with pytest.raises((RuntimeError, NotImplementedError)):
        planned(relations, include_self=False)


@pytest.mark.parametrize(("words", "most"), [(4096, 0.04), (16_384, 0.55), (10_001, 0.25)])
def test_memory_beyond_vectors_and_gradients(words: int, most: float, launches: dict[str, Launches]) -> None:
    """GB at 26 layers of size 2048: ``G`` whole; with a padded width a copy of a layer."""
    assert both_passes(26, words, 2048).peak < most * GB


@pytest.mark.parametrize("few", [False, True])
def test_several_ranks_wait_for_nothing_either(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plan of rank 5 of 8, and all words as if gathered. Own words against all are 16 x 64 tiles a layer."""
    words, layers, (begin, end) = 16_384, 3, shard(16_384, 5, 8)
    relations = many_positives(1, words, 8, 0.1, torch.bfloat16, torch.device("cpu")).relations
    relations = planned(sparse_relations(words, words // 8) if few else relations, False, rank=5, ranks=8).to(META)
    assert isinstance(relations.plan, RankPlan)
    launches = {name: Launches() for name in ("_lse_kernel", "_matrix_kernel", "_special_kernel", "_product_kernel")}
    for name, recorder in launches.items():
        monkeypatch.setattr(infonce_triton, name, recorder)
    monkeypatch.setattr(infonce_triton, "wide_product", lambda left, right, out: out)
    z = [torch.empty((end - begin, 8), dtype=torch.bfloat16, device=META) for _ in range(layers)]
    everyone = torch.empty((words, 8), dtype=torch.bfloat16, device=META)
    monkeypatch.setattr(passes, "gathered_layers", lambda z, *_: ((own, everyone) for own in z))
    monkeypatch.setattr(passes, "gather_rows", lambda local, total, _: local.new_empty((total, *local.shape[1:])))
    plans = infonce._rank_plans(infonce._tensors_of(relations.plan, begin, end - begin, 8, torch.bfloat16), "triton")
    where = (relations, 0.1, False, None, begin)
    _, _, lse = passes.forward(infonce_triton, z, *where, plans[0])
    gradients = passes.backward(infonce_triton, torch.ones(layers, device=META), z, lse, *where, plans[1])
    assert [gradient.shape for gradient in gradients] == [(2048, 8)] * layers
    if not few:
        assert launches["_lse_kernel"].grids == launches["_matrix_kernel"].grids == [(16 * 64,)] * layers
