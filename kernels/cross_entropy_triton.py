"""Cross-entropy of logits that are there already: two passes over each row in one program, the gradient written over
the logits. Six bytes of traffic a bf16 logit (read, read again, written), statistics in fp32.

Where ranks share the vocabulary, each with its part of every row, the two passes are kernels of their own, between
which the ranks exchange three numbers a row.
"""

import torch
import triton
import triton.language as tl

BLOCK = {"BLOCK": 4096, "num_warps": 8}


# fmt: off
@triton.jit(do_not_specialize=["ignored"])
def _cross_entropy_kernel(
    logits, targets, losses, stride, vocabulary, ignored, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    line = logits + row * stride
    lane = tl.arange(0, BLOCK)
    if target == ignored:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for begin in range(0, vocabulary, BLOCK):
                column = begin + lane
                tl.store(line + column, tl.zeros((BLOCK,), dtype=line.dtype.element_ty), mask=column < vocabulary)
    else:
        wanted = tl.load(line + target).to(tl.float32)
        largest = tl.full((), float("-inf"), dtype=tl.float32)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for begin in range(0, vocabulary, BLOCK):
            column = begin + lane
            values = tl.load(line + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
            larger = tl.maximum(largest, tl.max(values))
            total = total * tl.exp2((largest - larger) * 1.4426950408889634)
            total += tl.exp2((values - larger) * 1.4426950408889634)
            largest = larger
        log_total = largest * 1.4426950408889634 + tl.log2(tl.sum(total))
        tl.store(losses + row, log_total * 0.6931471805599453 - wanted)
        if GRADIENT:
            for begin in range(0, vocabulary, BLOCK):
                column = begin + lane
                values = tl.load(line + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
                share = tl.exp2(values * 1.4426950408889634 - log_total)
                share = tl.where(column == target, share - 1.0, share)
                tl.store(line + column, share.to(line.dtype.element_ty), mask=column < vocabulary)


@triton.jit
def _row_statistics_kernel(
    logits, targets, largests, sums, target_logits, stride, vocabulary, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    line = logits + row * stride
    lane = tl.arange(0, BLOCK)
    largest = tl.full((), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for begin in range(0, vocabulary, BLOCK):
        column = begin + lane
        values = tl.load(line + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(values))
        total = total * tl.exp2((largest - larger) * 1.4426950408889634)
        total += tl.exp2((values - larger) * 1.4426950408889634)
        largest = larger
    tl.store(largests + row, largest)
    tl.store(sums + row, tl.sum(total))
    tl.store(target_logits + row, tl.load(line + target, mask=target >= 0, other=0.0).to(tl.float32))


@triton.jit
def _gradient_kernel(logits, targets, log_sums, stride, vocabulary, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    log_total = tl.load(log_sums + row) * 1.4426950408889634
    line = logits + row * stride
    lane = tl.arange(0, BLOCK)
    for begin in range(0, vocabulary, BLOCK):
        column = begin + lane
        values = tl.load(line + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        share = tl.exp2(values * 1.4426950408889634 - log_total)
        share = tl.where(column == target, share - 1.0, share)
        tl.store(line + column, share.to(line.dtype.element_ty), mask=column < vocabulary)
# fmt: on


@torch.library.custom_op("prealign::cross_entropy_", mutates_args=("logits",))
def cross_entropy_(logits: torch.Tensor, targets: torch.Tensor, ignored: int, gradient: bool) -> torch.Tensor:
    """Nats of each target, fp32 ``[tokens]``, 0 where it is ``ignored``.

    ``logits``: ``[tokens, V]``, rows contiguous; with ``gradient`` they are replaced by the gradient of the summed
    loss, ``softmax - onehot``, 0 in ignored rows. ``targets``: int64 ``[tokens]``.
    """
    losses = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    if len(targets):
        with torch.cuda.device_of(logits):
            _cross_entropy_kernel[(len(targets),)](
                logits, targets, losses, logits.stride(0), logits.shape[1], ignored, GRADIENT=gradient, **BLOCK
            )
    return losses


@cross_entropy_.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor, ignored: int, gradient: bool) -> torch.Tensor:
    return torch.empty(len(targets), dtype=torch.float32, device=logits.device)


@torch.library.custom_op("prealign::row_statistics", mutates_args=())
def row_statistics(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row its largest logit, the sum of ``exp(logit - largest)``, and the target's logit, fp32 ``[tokens]``.

    ``logits``: ``[tokens, V]``, rows contiguous, V at least 1. ``targets``: int64 ``[tokens]``, -1 for none here, whose
    logit is 0.
    """
    found = _statistics_like(logits)
    if len(targets):
        with torch.cuda.device_of(logits):
            _row_statistics_kernel[(len(targets),)](logits, targets, *found, logits.stride(0), logits.shape[1], **BLOCK)
    return found


@row_statistics.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _statistics_like(logits)


def _statistics_like(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second, third = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3))
    return first, second, third


@torch.library.custom_op("prealign::cross_entropy_gradient_", mutates_args=("logits",))
def cross_entropy_gradient_(logits: torch.Tensor, targets: torch.Tensor, log_sums: torch.Tensor) -> None:
    """Replace logits by ``exp(logits - log_sums) - onehot``. ``logits``, ``targets``: as in `row_statistics`;
    ``log_sums``: fp32 ``[tokens]``, the logarithm of the whole row's sum of exponentials, +inf for a gradient of 0."""
    if len(targets):
        with torch.cuda.device_of(logits):
            _gradient_kernel[(len(targets),)](logits, targets, log_sums, logits.stride(0), logits.shape[1], **BLOCK)
