"""Span pooling: plain PyTorch and the Triton kernels against the formula in float64."""

from collections.abc import Callable

import pytest
import torch

from prealign.kernels import pool as pool_module
from prealign.kernels import pool_spans

pool_triton = pytest.importorskip("prealign.kernels.pool_triton")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}
CASES = [("torch", torch.float64), *((impl, dtype) for impl in ("torch", "triton") for dtype in list(TOLERANCE)[1:])]


def formula(hidden: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`pool_spans` word by word, in float64."""
    words = []
    for start, length in zip(starts.tolist(), lengths.tolist()):
        mean = hidden.double()[..., start : start + length, :].mean(dim=-2)
        words.append(mean / mean.norm(dim=-1, keepdim=True))
    return torch.stack(words, dim=-2)


def spans_of(lengths: list[int], gap: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Spans in reverse order with unused tokens between them: (starts, lengths, tokens)."""
    sizes = torch.tensor(lengths)
    starts = (torch.cumsum(sizes + gap, 0) - sizes).flip(0)
    return starts, sizes.flip(0), int((sizes + gap).sum()) + gap


@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize(
    ("lengths", "gap", "size", "layers"),
    [([1], 0, 64, 1), ([1, 40, 2], 3, 123, 2), (list(range(1, 41)), 1, 16, 3), ([2, 3, 1, 2], 0, 1024, 1)],
)
def test_forward_and_backward(
    impl: str, dtype: torch.dtype, lengths: list[int], gap: int, size: int, layers: int, device: torch.device
) -> None:
    starts, sizes, tokens = spans_of(lengths, gap)
    hidden = torch.randn(layers, tokens, size, dtype=torch.float64).to(dtype)
    upstream = torch.randn(layers, len(lengths), size, dtype=torch.float64).to(dtype)
    exact = hidden.double().requires_grad_()
    expected = formula(exact, starts, sizes)
    (expected_grad,) = torch.autograd.grad(expected, exact, upstream.double())

    mine = hidden.to(device).requires_grad_()
    z = pool_spans(mine, starts.to(device), sizes.to(device), impl=impl)
    (grad,) = torch.autograd.grad(z, mine, upstream.to(device))
    assert z.dtype == grad.dtype == dtype
    for got, truth in ((z, expected), (grad, expected_grad)):
        assert (got.detach().double().cpu() - truth).norm() / truth.norm() < TOLERANCE[dtype]
    outside = torch.ones(tokens, dtype=torch.bool)
    for start, length in zip(starts.tolist(), sizes.tolist()):
        outside[start : start + length] = False
    assert (grad.cpu()[:, outside] == 0).all()


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_rows_of_a_table_by_id(impl: str, device: torch.device) -> None:
    table = torch.randn(6, 20, device=device, requires_grad=True)
    ids = torch.tensor([5, 0, 5, 5, 2, 1], device=device)  # row 5 thrice, rows 3 and 4 never
    starts, lengths = torch.tensor([0, 2, 4], device=device), torch.tensor([2, 2, 1], device=device)
    upstream = torch.randn(3, 20, device=device)
    z = pool_spans(table, starts, lengths, ids, impl=impl)
    (grad,) = torch.autograd.grad(z, table, upstream)
    exact = table.detach().double().cpu().requires_grad_()
    expected = formula(exact[ids.cpu()], starts.cpu(), lengths.cpu())
    (expected_grad,) = torch.autograd.grad(expected, exact, upstream.double().cpu())
    torch.testing.assert_close(z.double().cpu(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad.double().cpu(), expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_zero_norm_span_is_zero_with_gradient_zero(impl: str, device: torch.device) -> None:
    hidden = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 4.0]], device=device, requires_grad=True)
    z = pool_spans(hidden, torch.tensor([0, 2], device=device), torch.tensor([2, 1], device=device), impl=impl)
    assert z[0].tolist() == [0.0, 0.0]
    (grad,) = torch.autograd.grad(z, hidden, torch.tensor([[1.0, 1.0], [1.0, 0.0]], device=device))
    assert (grad[:2] == 0).all()
    assert grad[2].abs().max() > 0


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("kind", ["expanded gradient", "transposed hidden", "sliced gradient"])
def test_any_strides(impl: str, kind: str, device: torch.device) -> None:
    hidden = torch.randn(10, 24, device=device)
    starts, lengths = torch.tensor([4, 0], device=device), torch.tensor([3, 2], device=device)
    grad = torch.randn(2, 24, device=device)
    if kind == "expanded gradient":
        grad = torch.tensor(1.0, device=device).expand(2, 24)
    elif kind == "sliced gradient":
        grad = torch.randn(2, 48, device=device)[:, ::2]
    expected_z = formula(exact := hidden.double().requires_grad_(), starts, lengths)
    (expected,) = torch.autograd.grad(expected_z, exact, grad.double())
    if kind == "transposed hidden":
        hidden = hidden.T.contiguous().T
    hidden.requires_grad_()
    z = pool_spans(hidden, starts, lengths, impl=impl)
    (got,) = torch.autograd.grad(z, hidden, grad)
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(z, expected_z.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_words_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, lengths, tokens = spans_of([3, 1, 4, 1, 5], gap=2)
    ids = torch.randperm(tokens)
    table = torch.randn(tokens, 16).to(dtype).requires_grad_()
    upstream = torch.randn(5, 16).to(dtype)
    results = []
    for elements in (1 << 18, 32):  # all words at once, two at a time
        monkeypatch.setattr(pool_module, "_BLOCK_ELEMENTS", elements)
        z = pool_spans(table, starts, lengths, ids, impl="torch")
        results.append((z, torch.autograd.grad(z, table, upstream)[0]))
    assert all(torch.equal(whole, parts) for whole, parts in zip(*results))


def test_gradcheck() -> None:
    hidden = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    starts, lengths = torch.tensor([0, 3, 4]), torch.tensor([3, 1, 5])
    assert torch.autograd.gradcheck(lambda hidden: pool_spans(hidden, starts, lengths), (hidden,))


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (2, 0, 3)])
def test_no_words(impl: str, shape: tuple[int, ...], device: torch.device) -> None:
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    hidden = torch.randn(shape, device=device, requires_grad=True)
    z = pool_spans(hidden, nothing, nothing, impl=impl)
    assert z.shape == (*shape[:-2], 0, 3)
    assert (torch.autograd.grad(z.sum(), hidden)[0] == 0).all()


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("by_id", [False, True])
def test_operators_are_registered_as_torch_expects(impl: str, by_id: bool, device: torch.device) -> None:
    hidden = torch.randn(1 if by_id else 2, 6, 8, device=device, requires_grad=True)
    ids = torch.tensor([1, 1, 4, 5, 3, 0], device=device) if by_id else None
    starts, lengths = torch.tensor([0, 3], device=device), torch.tensor([2, 3], device=device)
    torch.library.opcheck(torch.ops.prealign.pool, (hidden, ids, starts, lengths, impl))


def test_compiles_without_a_graph_break() -> None:
    starts, lengths = torch.tensor([0, 3]), torch.tensor([3, 2])
    hidden = torch.randn(6, 8, requires_grad=True)
    compiled = torch.compile(pool_spans, backend="aot_eager", fullgraph=True)
    weights = torch.randn(2, 8)
    (mine,) = torch.autograd.grad((compiled(hidden, starts, lengths) * weights).sum(), hidden)
    (theirs,) = torch.autograd.grad((pool_spans(hidden, starts, lengths) * weights).sum(), hidden)
    torch.testing.assert_close(mine, theirs)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    """Layers 2^30 elements apart, in memory of which only their pages are touched."""
    stride = 1 << 30
    far = torch.empty(2 * stride + 64, dtype=torch.bfloat16, device=device).as_strided((3, 4, 16), (stride, 16, 1))
    near = torch.randn(3, 4, 16, device=device).bfloat16()
    far.copy_(near)
    starts, lengths = torch.tensor([0, 3], device=device), torch.tensor([2, 1], device=device)
    expected, inverse = pool_triton.span_means(near, None, starts, lengths)
    assert torch.equal(pool_triton.span_means(far, None, starts, lengths)[0], expected)
    # and a gradient whose columns lie far apart
    grad = torch.randn(3, 2, 16, device=device).bfloat16()
    far_grad = torch.empty(15 * (stride // 4) + 64, dtype=torch.bfloat16, device=device)
    far_grad = far_grad.as_strided((3, 2, 16), (2, 1, stride // 4)).copy_(grad)
    near_result, far_result = (
        pool_triton.span_gradients(part, expected, inverse, starts, lengths, 4) for part in (grad, far_grad)
    )
    assert torch.equal(near_result, far_result)


def test_grids_have_one_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and the third end at 65,535 programs."""
    grids: list[tuple[int, ...]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            grids.append(grid)
            return lambda *arguments, **options: None

    for name in ("_forward_kernel", "_owner_kernel", "_backward_kernel"):
        monkeypatch.setattr(pool_triton, name, Recorder())
    words = torch.arange(70_000)
    hidden = torch.zeros(2, 70_000, 1)
    z, inverse = pool_triton.span_means(hidden, None, words, torch.ones_like(words))
    pool_triton.span_gradients(z, z, inverse, words, torch.ones_like(words), 70_000)
    assert grids == [(140_000,), (70_000,), (140_000,)]


def test_shapes_that_do_not_fit_are_errors() -> None:
    hidden, words = torch.zeros(4, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"expected \[\.\.\., tokens, D\]"):
        pool_spans(hidden, words, words[:1])
    with pytest.raises(ValueError, match=r"expected \[V, D\]"):
        pool_spans(hidden[None], words, words, ids=words)
    with pytest.raises(ValueError, match="'torch'"):
        pool_spans(hidden.double(), words, words, impl="triton")
