"""The passes over the upper triangle of tiles, with the copy engine's loads and with pointers, against float64."""

from dataclasses import replace

import pytest
import torch

from prealign.kernels import Relations, csr, multilayer_infonce, planned
from prealign.kernels import symmetric as plans
from prealign.kernels.rank_plan import RankPlan
from tests.kernels.test_infonce import RELATIONS, gradient, random_relations, unit_vectors

symmetric_triton = pytest.importorskip("prealign.kernels.symmetric_triton")


@pytest.fixture(params=["copy engine", "pointers"])
def loads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    options = symmetric_triton._options
    pointers = request.param == "pointers"
    monkeypatch.setattr(symmetric_triton, "_options", lambda z: options(z) | ({"TMA": False} if pointers else {}))


def compare(words: int, size: int, tau: float, relations: Relations, include_self: bool, device: torch.device) -> None:
    """Loss, cosines and gradient are float64's to bf16's rounding of ``G``; the plan was really made."""
    z = unit_vectors(2, words, size, seed=2, dtype=torch.bfloat16)
    expected = gradient("reference", z.detach().double().requires_grad_(), relations, tau, include_self=include_self)
    ready = planned(relations, include_self)
    assert ready.plan is not None
    mine = z.detach().to(device).requires_grad_()
    got = gradient("triton", mine, ready.to(device), tau, include_self=include_self)
    rounding = 5e-3 * (1 + 3 / words)  # which averages out over many words
    for part, truth, tolerance in zip(got, expected, (1e-6, 1e-6, rounding)):
        assert (part.detach().double().cpu() - truth).norm() <= tolerance * truth.norm()
    unplanned = gradient("triton", mine, relations.to(device), tau, include_self=include_self)
    assert all(torch.equal(*pair) for pair in zip(got, unplanned))


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize(("words", "size", "tau"), [(3, 64, 0.1), (90, 8, 1.0), (130, 64, 0.025), (257, 72, 0.1)])
def test_equals_float64(
    words: int, size: int, tau: float, include_self: bool, loads: None, device: torch.device
) -> None:
    compare(words, size, tau, random_relations(words, seed=words), include_self, device)


@pytest.mark.parametrize("words", [90, 300, 700])
def test_wide_tiles(words: int, loads: None, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plans, symmetric_triton):
        monkeypatch.setattr(module, "tile_shape", lambda words: (128, 256))
    compare(words, 64, 0.1, random_relations(words, seed=3), False, device)


@pytest.mark.parametrize("relation", ["many to many", "all positives"])
def test_relations_of_every_kind(relation: str, loads: None, device: torch.device) -> None:
    compare(150, 64, 0.1, RELATIONS[relation](150), False, device)


@pytest.mark.parametrize("weight", [-0.03, 0.0, 2e4])
def test_upstream_of_any_sign_and_size(weight: float, loads: None, device: torch.device) -> None:
    """What is above the loss is multiplied in before ``G`` is rounded: no worse than after it."""
    relations = RELATIONS["many to many"](130)
    z = unit_vectors(1, 130, 64, seed=4, dtype=torch.bfloat16)
    exact = gradient("reference", z.detach().double().requires_grad_(), relations, 0.1)[2]
    mine = z.detach().to(device).requires_grad_()
    losses, _ = multilayer_infonce(mine, relations.to(device), 0.1, impl="triton")
    (got,) = torch.autograd.grad((losses * weight).sum(), mine)
    assert (got.double().cpu() - weight * exact).norm() <= 5e-3 * (weight * exact).norm()


def test_a_word_that_ignores_all_others(device: torch.device) -> None:
    """Its denominator is empty, its loss -inf; the gradient stays finite."""
    words = torch.arange(40)
    others = torch.arange(1, 40)
    ignored = csr(torch.cat((others * 0, others)), torch.cat((others, others * 0)), 40)
    weight = torch.full((40,), 1 / 40, dtype=torch.float64)
    relations = Relations(csr(words, words ^ 1, 40), ignored, weight)
    assert planned(relations, False).plan is not None
    z = unit_vectors(1, 40, 64, seed=1, dtype=torch.bfloat16).detach().to(device).requires_grad_()
    losses, _, grad = gradient("triton", z, relations.to(device), 0.1)
    assert losses.item() == -torch.inf
    assert grad.isfinite().all()


def test_no_triangle_for_one_sided_ignoring_and_for_few_anchors() -> None:
    words = torch.arange(40)
    pairs, nothing = csr(words, words ^ 1, 40), torch.empty(0, dtype=torch.int64)
    weight = torch.full((40,), 1 / 40)
    one_sided = Relations(pairs, csr(words[:1], words[5:6], 40), weight)
    few = Relations(pairs, csr(nothing, nothing, 40), weight * (words < 10))
    for relations in (one_sided, few):
        assert plans.plan_symmetric(relations, False) is None
        assert isinstance(planned(relations, False).plan, RankPlan)


def test_plan_for_another_loss_is_refused() -> None:
    relations = planned(random_relations(20, seed=1), include_self=False)
    with pytest.raises(ValueError, match="include_self=False; found True"):
        multilayer_infonce(unit_vectors(1, 20, 8, seed=1), relations, 0.1, include_self=True)


def test_matrix_that_does_not_fit_takes_blocks(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric_triton, "LARGEST_MATRIX", 1000)
    compare(90, 64, 0.1, random_relations(90, seed=5), False, device)


def test_low_temperatures_take_the_passes_with_a_maximum() -> None:
    z = [torch.zeros((4, 8), dtype=torch.bfloat16)]
    assert symmetric_triton.applies(z, 1 / 40, ranks=1)
    assert not symmetric_triton.applies(z, 0.02, ranks=1)
    assert not symmetric_triton.applies(z, 0.1, ranks=2)
    assert not symmetric_triton.applies([z[0].float()], 0.1, ranks=1)


def test_plan_on_a_device_is_the_same(device: torch.device) -> None:
    relations = random_relations(200, seed=2)
    here, there = planned(relations, False).plan, planned(relations.to(device), False).plan
    assert here is not None
    assert there is not None
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.tensors(), there.tensors()))
    moved = replace(relations, plan=here).to(device).plan
    assert moved is not None
    assert moved.order.device.type == device.type
