"""Multi-layer InfoNCE: the implementations against the oracle, and the traps that such losses fall into."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from prealign.kernels import Relations, csr, full_relations, multilayer_infonce, passes, planned, shard, square
from prealign.kernels import chunked as chunked_module
from prealign.kernels.pieces import make_piece

triton_module = pytest.importorskip("prealign.kernels.infonce_triton")
BOTH = pytest.mark.parametrize("impl", ["chunked", "triton"])


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
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=z.device)  # a gradient that differs by layer
    return losses, cosines, torch.autograd.grad((losses * weights).sum(), z)[0]


@pytest.mark.parametrize("words", [1, 2, 3, 17, 252, 507])
@pytest.mark.parametrize("tau", [0.01, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("include_self", [False, True])
def test_chunked_equals_reference(words: int, tau: float, include_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked_module._BLOCK_SCORES, "cpu", 5000)  # several ragged blocks
    relations = random_relations(words, seed=words)
    z = unit_vectors(3, words, 24, seed=1)
    expected = gradient("reference", z, relations, tau, include_self=include_self)
    got = gradient("chunked", z, relations, tau, include_self=include_self)
    for mine, theirs in zip(got, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def sparse_relations(words: int, anchors: int) -> Relations:
    """Few anchors, the last word among them, each with one positive, ignoring the word after it."""
    rows = torch.arange(words - anchors, words)
    positives = csr(torch.cat((rows, rows % 3)), torch.cat((rows % 3, rows)), words)
    ignored = csr(rows, (rows + 1) % words, words)
    weight = torch.zeros(words, dtype=torch.float64)
    weight[rows] = torch.linspace(1, 2, anchors, dtype=torch.float64)
    return Relations(positives, ignored, weight / weight.sum())


def tangled_relations(words: int) -> Relations:
    """Relations that are not symmetric; some pairs are positive and ignored at once; some anchors have no positive."""
    generator = torch.Generator().manual_seed(words)
    drawn = torch.rand(2, words, words, generator=generator) < 0.1
    drawn.diagonal(dim1=1, dim2=2).fill_(False)
    positives, ignored = (csr(*relation.nonzero(as_tuple=True), words) for relation in drawn)
    weight = torch.rand(words, generator=generator, dtype=torch.float64)
    return Relations(positives, ignored, weight / weight.sum())


def eager_gradient(z: torch.Tensor, relations: Relations, tau: float, include_self: bool) -> torch.Tensor:
    """Gradient by autograd through the stored matrix, in the dtype of ``z``."""
    losses, _ = multilayer_infonce(z, relations, tau, impl="reference", include_self=include_self)
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype)
    return torch.autograd.grad((losses * weights).sum(), z)[0]


RELATIONS: dict[str, Callable[[int], Relations]] = {
    "many to many": lambda words: random_relations(words, seed=words),
    "few anchors": lambda words: (
        sparse_relations(words, max(1, words // 8)) if words > 8 else random_relations(words, 0)
    ),
    "tangled": tangled_relations,
    "all positives": lambda words: full_relations(torch.zeros(words, dtype=torch.int64)),
    "one with forty": lambda words: full_relations((torch.arange(words) - 40).clamp(min=0)),
    "no positives": lambda words: full_relations(torch.arange(words)),
}


def assert_close(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], tolerance: float) -> None:
    for mine, truth in zip(got, expected):
        assert mine.isfinite().all()
        error = (mine.double().cpu() - truth).norm() / truth.norm().clamp(min=1e-6)
        assert error < tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(
    ("words", "size", "tau", "relation"),
    [
        (1, 64, 0.1, "many to many"),
        (3, 64, 0.01, "many to many"),
        (252, 123, 0.1, "many to many"),
        (252, 64, 0.01, "few anchors"),
        (507, 64, 0.05, "many to many"),
        (507, 1024, 0.1, "few anchors"),
        (252, 1024, 1.0, "many to many"),
        (90, 64, 0.1, "tangled"),
        (3, 123, 0.1, "all positives"),
        (130, 64, 0.1, "all positives"),
        (252, 64, 0.05, "one with forty"),
        (252, 64, 0.1, "no positives"),
    ],
)
@pytest.mark.parametrize("include_self", [False, True])
def test_precision_against_float64(
    impl: str, dtype: torch.dtype, tolerance: float, words: int, size: int, tau: float, relation: str,
    include_self: bool, device: torch.device,
) -> None:  # fmt: skip
    relations = RELATIONS[relation](words)
    z = unit_vectors(2, words, size, seed=2, dtype=dtype)
    exact = z.detach().double().requires_grad_()
    expected = gradient("reference", exact, relations, tau, include_self=include_self)
    mine = z.detach().to(device).requires_grad_()
    got = gradient(impl, mine, relations.to(device), tau, include_self=include_self)
    if relation == "no positives":
        assert all((part == 0).all() for part in got)
        return
    assert_close(got, expected, max(tolerance, 2**-23 / tau))  # a score of 1/tau is rounded by as much
    if dtype == torch.float32:
        return
    # about twice the error that autograd has in bf16; with few anchors G is rounded in two parts
    relative = [
        (grad.double().cpu() - expected[2]).norm() / expected[2].norm().clamp(min=1e-6)
        for grad in (got[2], eager_gradient(z, relations, tau, include_self))
    ]
    assert relative[0] <= (2.5 if "few" in relation or "forty" in relation else 2) * relative[1]


@BOTH
def test_same_bits_on_every_run(impl: str, device: torch.device) -> None:
    relations = random_relations(130, seed=9).to(device)
    z = unit_vectors(2, 130, 64, seed=9, dtype=torch.bfloat16).detach().to(device).requires_grad_()
    first, second = gradient(impl, z, relations, 0.1), gradient(impl, z, relations, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@BOTH
def test_nothing_beyond_the_end_is_read(impl: str, device: torch.device) -> None:
    """Ragged last tiles: memory around the vectors is NaN."""
    relations = random_relations(67, seed=1).to(device)
    z = unit_vectors(1, 67, 33, seed=1, dtype=torch.float32).detach().to(device)
    padded = torch.full((3, 67, 33), torch.nan, device=device)
    padded[1] = z[0]
    got = gradient(impl, padded[1:2].requires_grad_(), relations, 0.1)
    assert_close(
        got[:2], tuple(part.double().cpu() for part in gradient(impl, z.requires_grad_(), relations, 0.1)[:2]), 1e-9
    )
    assert got[2].isfinite().all()


@BOTH
def test_zero_vectors(impl: str, device: torch.device) -> None:
    """What a span of zero norm gives: similarity 0 to every word."""
    relations = full_relations(torch.arange(8) // 2)
    z = unit_vectors(1, 8, 16, seed=0, dtype=torch.float32).detach()
    z[0, 3] = 0
    expected = gradient("reference", z.double().requires_grad_(), relations, 0.05)
    assert_close(gradient(impl, z.to(device).requires_grad_(), relations.to(device), 0.05), expected, 5e-6)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    """Rows 2^30 elements apart, in memory of which only their pages are touched."""
    stride, words = 1 << 30, 4
    far = torch.empty(3 * stride + 64, dtype=torch.bfloat16, device=device).as_strided((words, 64), (stride, 1))
    near = unit_vectors(1, words, 64, seed=0, dtype=torch.bfloat16).detach()[0].to(device)
    far.copy_(near)
    everyone = torch.arange(words, device=device)
    relations = full_relations(torch.arange(words) // 2).to(device)
    piece = make_piece(relations, everyone, everyone, False, torch.float32)
    plan = triton_module.plan_lse(piece, torch.bfloat16)
    lse = triton_module.row_lse(near, near, plan, 0.1)
    assert torch.equal(triton_module.row_lse(far, far, plan, 0.1), lse)
    plan = triton_module.plan_gradient(piece, torch.bfloat16, True, True)
    expected = triton_module.row_gradient(near, near, plan, 0.1, lse, lse)
    assert torch.equal(triton_module.row_gradient(far, far, plan, 0.1, lse, lse), expected)


def test_grids_have_one_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and the third end at 65,535 programs; 70,000 x 70,000 words in one launch each."""
    grids: list[tuple[int, ...]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            grids.append(grid)
            return lambda *arguments, **options: None

    monkeypatch.setattr(triton_module, "_lse_kernel", Recorder())
    everyone = torch.arange(70_000)
    nothing = csr(everyone[:0], everyone[:0], 70_000)
    relations = Relations(nothing, nothing, torch.ones(70_000, dtype=torch.float64))
    piece = make_piece(relations, everyone, everyone, False, torch.float32)
    z = torch.zeros(70_000, 1)
    triton_module.row_lse(z, z, triton_module.plan_lse(piece, torch.float32), 0.1)
    height, width = square.square_shape(torch.float32)
    assert grids[0] == (-(-70_000 // height) * -(-70_000 // width),)
    assert all(len(grid) == 1 for grid in grids)


@pytest.mark.parametrize("anchors", [0, 1])
def test_nothing_is_launched_for_nothing(anchors: int, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """CUDA refuses a grid of 0 programs: no anchors at all, or none among a rank's words."""

    class Checker:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert grid[0] > 0
            return self.kernel[grid]

    for name in ("_lse_kernel", "_matrix_kernel", "_product_kernel", "_special_kernel"):
        monkeypatch.setattr(triton_module, name, Checker(getattr(triton_module, name)))
    relations = (sparse_relations(20, 1) if anchors else full_relations(torch.arange(20))).to(device)
    z = list(unit_vectors(1, 20, 8, seed=0, dtype=torch.float32).detach().to(device))
    rank = (relations, 0.1, False, None, 0)
    own = [z[0][:10].contiguous()]  # words 0 to 9; the anchor is word 19
    monkeypatch.setattr(passes, "gathered_layers", lambda *_: zip(own, z))
    monkeypatch.setattr(passes, "gather_rows", lambda local, *_: torch.cat((local, torch.zeros_like(local))))
    losses, _, lse = passes.forward(triton_module, own, *rank)
    assert losses.item() == 0
    (gradient,) = passes.backward(triton_module, torch.ones(1, device=device), own, lse, *rank)
    assert gradient.isfinite().all()
    assert (gradient != 0).any() == bool(anchors)


def test_positives_cost_the_tiles_nothing() -> None:
    """Scattered positives: only tiles on the diagonal, which hold words and themselves, leave pairs out."""
    words = 1000
    rows, columns = torch.randint(0, words, (2, 4 * words), generator=torch.Generator().manual_seed(0))
    rows, columns = rows[rows != columns], columns[rows != columns]
    nothing = csr(rows[:0], rows[:0], words)
    relations = Relations(csr(rows, columns, words), nothing, torch.full((words,), 1 / words))
    everyone = torch.arange(words)
    piece = make_piece(relations, everyone, everyone, False, torch.float32)
    plan = triton_module.plan_lse(piece, torch.bfloat16)
    height, width = square.square_shape(torch.bfloat16)
    number = torch.arange(words) // height * -(-words // width)
    diagonal = (number + torch.arange(words) // width).unique()
    assert (plan.tile_index >= 0).nonzero().flatten().tolist() == diagonal.tolist()


@BOTH
@pytest.mark.parametrize("include_self", [False, True])
def test_a_word_that_ignores_itself(impl: str, include_self: bool, device: torch.device) -> None:
    """Listed so, it is left out whatever ``include_self`` says, and no other pair changes."""
    words = torch.arange(40)
    pairs = full_relations(words // 2)
    ignored = csr(words.repeat(2), torch.cat((words, (words + 3) % 40)), 40)
    relations = Relations(pairs.positives, ignored, pairs.anchor_weight)
    z = unit_vectors(2, 40, 24, seed=3, dtype=torch.float32).detach()
    expected = gradient("reference", z.double().requires_grad_(), relations, 0.1, include_self=include_self)
    got = gradient(impl, z.to(device).requires_grad_(), relations.to(device), 0.1, include_self=include_self)
    assert_close(got, expected, 5e-6)


def test_double_precision_is_not_for_triton() -> None:
    relations = full_relations(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="impl='chunked'"):
        multilayer_infonce(torch.zeros(1, 2, 8, dtype=torch.float64), relations, 0.1, impl="triton")


@BOTH
def test_several_blocks_of_the_workspace(impl: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    relations = random_relations(200, seed=4)
    z = unit_vectors(1, 200, 32, seed=4, dtype=torch.float32).detach()
    monkeypatch.setattr(square, "WORKSPACE_ELEMENTS", 64 * 200)
    monkeypatch.setitem(chunked_module._BLOCK_SCORES, device.type, 64 * 200)
    expected = gradient("reference", z.double().requires_grad_(), relations, 0.1)
    assert_close(gradient(impl, z.to(device).requires_grad_(), relations.to(device), 0.1), expected, 5e-6)


@BOTH
def test_autocast_changes_nothing(impl: str, device: torch.device) -> None:
    relations = random_relations(50, seed=4).to(device)
    z = unit_vectors(1, 50, 32, seed=4, dtype=torch.float32).detach().to(device).requires_grad_()
    expected = gradient(impl, z, relations, 0.1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = gradient(impl, z, relations, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(got, expected))


def test_a_list_of_layers_is_a_tensor_of_layers() -> None:
    relations = random_relations(20, seed=5)
    z = unit_vectors(3, 20, 8, seed=0)
    losses, cosines, expected = gradient("chunked", z, relations, 0.1)
    layers = [layer.detach().requires_grad_() for layer in z]
    got = multilayer_infonce(layers, relations, 0.1)
    assert torch.equal(got[0], losses)
    assert torch.equal(got[1], cosines)
    weights = torch.arange(1, 4, dtype=torch.float64)
    assert torch.equal(torch.stack(torch.autograd.grad((got[0] * weights).sum(), layers)), expected)


def test_compiles_without_a_graph_break_at_any_number_of_words() -> None:
    def loss(z: torch.Tensor, relations: Relations) -> torch.Tensor:
        return multilayer_infonce(z, relations, 0.1, impl="chunked")[0].sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for words in (20, 24, 17):
        relations = random_relations(words, seed=5)
        z = unit_vectors(2, words, 8, seed=0, dtype=torch.float32)
        mine, theirs = (torch.autograd.grad(function(z, relations), z) for function in (compiled, loss))
        torch.testing.assert_close(mine, theirs)


@BOTH
def test_operators_are_registered_as_torch_expects(impl: str, device: torch.device) -> None:
    relations = planned(random_relations(12, seed=5), include_self=False).to(device)
    parts = (*relations.positives, *relations.ignored, relations.anchor_weight)
    assert relations.plan is not None
    for dtype, plan in ((torch.float32, []), (torch.bfloat16, relations.plan.tensors())):
        z = list(unit_vectors(2, 12, 8, seed=0, dtype=dtype).detach().to(device).requires_grad_().unbind())
        torch.library.opcheck(torch.ops.prealign.infonce, (z, *parts, plan, 0.1, False, "", 0, impl))


def test_gradcheck() -> None:
    relations = random_relations(9, seed=3)
    z = unit_vectors(2, 9, 5, seed=4)
    assert torch.autograd.gradcheck(lambda z: multilayer_infonce(z, relations, 0.3)[0], (z,))


@BOTH
def test_identical_vectors_and_small_temperature_stay_finite(impl: str, device: torch.device) -> None:
    relations = full_relations(torch.arange(8) // 2).to(device)
    z = torch.ones(2, 8, 4, dtype=torch.float32, device=device).div(2).requires_grad_()
    losses, _, grad = gradient(impl, z, relations, 0.001)
    assert losses.isfinite().all()
    assert grad.isfinite().all()


@BOTH
@pytest.mark.parametrize("kind", ["expanded", "non-contiguous z", "one layer", "some layers frozen"])
def test_layouts_of_inputs_and_gradients(impl: str, kind: str, device: torch.device) -> None:
    relations = random_relations(20, seed=5).to(device)
    z = unit_vectors(3, 20, 6, seed=6, dtype=torch.float32).detach().to(device).requires_grad_()

    def grad_of(impl: str, z: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        losses = multilayer_infonce(z, relations, 0.1, impl=impl)[0]
        return torch.autograd.grad(losses[1] if kind == "one layer" else losses.sum(), leaf)[0]

    expected = grad_of("reference", z, z)
    leaf = mine = z
    if kind == "non-contiguous z":
        leaf = mine = z.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
        assert not mine.is_contiguous()
    elif kind == "some layers frozen":
        leaf = z.detach()[1].clone().requires_grad_()
        mine = torch.stack((z.detach()[0], leaf, z.detach()[2]))
        expected = expected[1]
    torch.testing.assert_close(grad_of(impl, mine, leaf), expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_wrong_temperature_is_an_error(tau: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        multilayer_infonce(torch.zeros(2, 4, 8), full_relations(torch.zeros(4, dtype=torch.int64)), tau)


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("int64", "int64"), ("bfloat16", "float32")])
def test_wrong_dtypes_are_errors(dtypes: tuple[str, str]) -> None:
    layers = [torch.zeros(4, 8, dtype=getattr(torch, dtype)) for dtype in dtypes]
    with pytest.raises(ValueError, match=f"{dtypes[0]}.*expected one of bfloat16"):
        multilayer_infonce(layers, full_relations(torch.zeros(4, dtype=torch.int64)), 0.1)


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
