"""Plans that are made beforehand give what the passes plan for themselves, bit for bit."""

import pytest
import torch

from prealign.kernels import Relations, multilayer_infonce, planned
from prealign.kernels.rank_plan import RankPlan, plan_rank
from tests.kernels.test_infonce import RELATIONS, gradient, random_relations, unit_vectors

pytest.importorskip("triton")


@pytest.mark.parametrize("relation", ["few anchors", "tangled"])
@pytest.mark.parametrize("include_self", [False, True])
def test_the_same_bits_on_one_rank(relation: str, include_self: bool, device: torch.device) -> None:
    """Where there is no triangle."""
    relations = RELATIONS[relation](90)
    ready = planned(relations, include_self)
    assert isinstance(ready.plan, RankPlan)
    z = unit_vectors(2, 90, 64, seed=2, dtype=torch.bfloat16).detach().to(device).requires_grad_()
    mine = gradient("triton", z, ready.to(device), 0.1, include_self=include_self)
    expected = gradient("triton", z, relations.to(device), 0.1, include_self=include_self)
    assert all(torch.equal(*pair) for pair in zip(mine, expected))


def test_it_is_used(device: torch.device) -> None:
    """Relations that would give another loss are not looked at."""
    relations = RELATIONS["tangled"](40)
    other = random_relations(40, seed=1)
    z = unit_vectors(2, 40, 64, seed=2, dtype=torch.bfloat16).detach().to(device).requires_grad_()
    swapped = Relations(other.positives, other.ignored, other.anchor_weight, planned(relations, False).plan)
    mine = gradient("triton", z, swapped.to(device), 0.1)
    assert all(torch.equal(*pair) for pair in zip(mine, gradient("triton", z, relations.to(device), 0.1)))


def test_a_plan_of_other_words_or_vectors_is_not_used(device: torch.device) -> None:
    relations = RELATIONS["tangled"](40)
    plan = plan_rank(relations, begin=20, count=20, include_self=False)
    assert plan.serves(20, 20, torch.bfloat16)
    assert not plan.serves(0, 20, torch.bfloat16)
    assert not plan.serves(20, 20, torch.float32)
    z = unit_vectors(1, 40, 8, seed=2, dtype=torch.float32).detach().to(device)
    both = [given.to(device) for given in (planned(relations, False), relations)]
    for impl in ("chunked", "triton"):
        with_plan, without = (multilayer_infonce(z, given, 0.1, impl=impl) for given in both)
        assert all(torch.equal(*pair) for pair in zip(with_plan, without))


@pytest.mark.parametrize("relation", ["few anchors", "many to many"])
def test_what_is_read_on_the_cpu_stays_there(relation: str) -> None:
    plan = planned(RELATIONS[relation](90), False, rank=1, ranks=2).plan
    assert isinstance(plan, RankPlan)
    moved = plan.each(lambda tensor: tensor.to("meta"))
    on_cpu = [number for number, tensor in enumerate(moved.tensors()) if tensor.device.type == "cpu"]
    assert on_cpu == ([14] if relation == "many to many" else [15, 23])
    assert all(torch.equal(plan.tensors()[number], moved.tensors()[number]) for number in on_cpu)
