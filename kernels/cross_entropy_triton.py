"""Cross-entropy of logits that are there already: two passes over each row in one program, the gradient written over
the logits. Six bytes of traffic a bf16 logit (read, read again, written), statistics in fp32."""

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
