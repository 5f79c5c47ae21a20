"""Multi-layer InfoNCE: the chunked implementation against the oracle, and its numerical traps."""

import itertools

import pytest
import torch

from prealign.kernels import Relations, csr, full_relations, multilayer_infonce
from prealign.kernels import chunked as chunked_module
from prealign.kernels.infonce import shard


def random_relations(words: int, seed: int) -> Relations:
    """Groups of about three, some extra positives across groups (many-to-many), some ignored pairs, uneven weights."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, max(1, words // 3), (words,), generator=generator)
    positive = groups[:, None] == groups[None, :]
    extra = torch.rand(words, words, generator=generator) < 0.01
    positive |= extra | extra.T
    ignored = torch.rand(words, words, generator=generator) < 0.05
    ignored = (ignored | ignored.T) & ~positive
    positive.fill_diagonal_(False)
    ignored.fill_diagonal_(False)
    weight = torch.rand(words, generator=generator, dtype=torch.float64) * positive.any(dim=1)
    weight *= torch.rand(words, generator=generator) < 0.8  # some words with positives are no anchors
    weight /= weight.sum().clamp(min=1e-9)
    pairs = [relation.nonzero(as_tuple=True) for relation in (positive, ignored)]
    return Relations(csr(*pairs[0], words), csr(*pairs[1], words), weight)


def unit_vectors(layers: int, words: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(layers, words, size, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=-1).to(dtype).requires_grad_()


def gradient(impl: str, z: torch.Tensor, relations: Relations, tau: float, **options) -> tuple[torch.Tensor, ...]:
    losses, cosines = multilayer_infonce(z, relations, tau, impl=impl, **options)
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype)  # a gradient that differs by layer
    return losses, cosines, torch.autograd.grad((losses * weights).sum(), z)[0]


@pytest.mark.parametrize("words", [1, 2, 3, 17, 252, 507])
@pytest.mark.parametrize("tau", [0.01, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("include_self", [False, True])
def test_chunked_equals_reference(words: int, tau: float, include_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_module, "_BLOCK_ELEMENTS", 5000)  # several ragged blocks
    relations = random_relations(words, seed=words)
    z = unit_vectors(3, words, 24, seed=1)
    expected = gradient("reference", z, relations, tau, include_self=include_self)
    got = gradient("chunked", z, relations, tau, include_self=include_self)
    for mine, theirs in zip(got, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("tau", [0.01, 0.1])
def test_precision_is_that_of_the_reference_in_the_same_dtype(dtype: torch.dtype, tolerance: float, tau: float) -> None:
    relations = random_relations(252, seed=0)
    z = unit_vectors(2, 252, 64, seed=2, dtype=dtype)
    exact = z.detach().double().requires_grad_()
    expected = gradient("reference", exact, relations, tau)
    got = gradient("chunked", z, relations, tau)
    for mine, truth in zip(got, expected):
        error = (mine.double() - truth).norm() / truth.norm().clamp(min=1e-12)
        assert error < tolerance


def test_gradcheck() -> None:
    relations = random_relations(9, seed=3)
    z = unit_vectors(2, 9, 5, seed=4)
    assert torch.autograd.gradcheck(lambda z: multilayer_infonce(z, relations, 0.3)[0], (z,))


def test_no_positive_in_the_batch_is_loss_zero() -> None:
    relations = full_relations(torch.arange(6))
    z = unit_vectors(2, 6, 8, seed=0)
    losses, _, grad = gradient("chunked", z, relations, 0.1)
    assert losses.tolist() == [0.0, 0.0]
    assert grad.abs().max() == 0


def test_all_positives() -> None:
    relations = full_relations(torch.zeros(7, dtype=torch.int64))
    z = unit_vectors(1, 7, 8, seed=0)
    torch.testing.assert_close(gradient("chunked", z, relations, 0.1), gradient("reference", z, relations, 0.1))


def test_identical_vectors_and_small_temperature_stay_finite() -> None:
    relations = full_relations(torch.arange(8) // 2)
    z = torch.ones(2, 8, 4, dtype=torch.float32).div(2).requires_grad_()
    losses, _, grad = gradient("chunked", z, relations, 0.001)
    assert losses.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", ["expanded", "non-contiguous z", "partial"])
def test_layouts_of_inputs_and_gradients(kind: str) -> None:
    relations = random_relations(20, seed=5)
    z = unit_vectors(3, 20, 6, seed=6)
    if kind == "expanded":  # sum() sends a stride-0 gradient
        got = torch.autograd.grad(multilayer_infonce(z, relations, 0.1)[0].sum(), z)[0]
        expected = torch.autograd.grad(multilayer_infonce(z, relations, 0.1, impl="reference")[0].sum(), z)[0]
    elif kind == "non-contiguous z":
        turned = z.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
        assert not turned.is_contiguous()
        got, expected = gradient("chunked", turned, relations, 0.1)[2], gradient("reference", z, relations, 0.1)[2]
    else:  # one layer's loss alone
        got = torch.autograd.grad(multilayer_infonce(z, relations, 0.1)[0][1], z)[0]
        expected = torch.autograd.grad(multilayer_infonce(z, relations, 0.1, impl="reference")[0][1], z)[0]
    torch.testing.assert_close(got, expected)


def test_cosine_is_that_of_the_positives() -> None:
    relations = full_relations(torch.tensor([0, 0, 1, 1]))
    z = unit_vectors(1, 4, 8, seed=7)
    _, cosines = multilayer_infonce(z, relations, 0.1)
    expected = ((z[0, 0] @ z[0, 1]) + (z[0, 2] @ z[0, 3])) / 2
    torch.testing.assert_close(cosines[0], expected.detach())


def test_an_ignored_word_has_no_say() -> None:
    """With word 0 as the only anchor, turning a word around that it ignores changes nothing; a negative changes it."""
    empty = torch.empty(0, dtype=torch.int64)
    positives = csr(torch.tensor([0, 1]), torch.tensor([1, 0]), 4)
    ignored = csr(torch.tensor([0, 2]), torch.tensor([2, 0]), 4)
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    z = unit_vectors(1, 4, 8, seed=8)
    turned = z.detach().clone()
    turned[0, 2] *= -1
    for relation, same in ((ignored, True), (csr(empty, empty, 4), False)):
        relations = Relations(positives, relation, weight)
        before = gradient("chunked", z, relations, 0.1)
        after = gradient("chunked", turned.clone().requires_grad_(), relations, 0.1)
        assert torch.allclose(before[0], after[0]) == same
        assert torch.allclose(before[2][0, 0], after[2][0, 0]) == same
        assert (before[2][0, 2].abs().max() == 0) == same


def test_wrong_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected \[layers, 4, D\]"):
        multilayer_infonce(torch.zeros(2, 3, 8), full_relations(torch.zeros(4, dtype=torch.int64)), 0.1)


def test_shards_cover_all_words() -> None:
    for size in (0, 1, 5, 512):
        for ranks in (1, 2, 3, 8):
            shares = [shard(size, rank, ranks) for rank in range(ranks)]
            assert shares[0][0] == 0
            assert shares[-1][1] == size
            assert all(a[1] == b[0] for a, b in itertools.pairwise(shares))
            assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1
