"""LM loss without a logits tensor: linear layer and cross-entropy, a chunk of tokens at a time.

torch 2.13's `linear_cross_entropy` sums bf16 losses in bf16 (a sum over 512 tokens was off by 3 %), and the gradient of
a per-token loss costs it a second product with the vocabulary. Here statistics are fp32, and the gradient, which is
known once the loss is, is taken in the same pass: three products with the vocabulary in all. On CUDA bf16 logits go
through one kernel, which writes the gradient over them. Where ranks share the vocabulary, they exchange each token's
largest logit, and then its sum of exponentials and the target's logit.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from prealign.data.switching import IGNORED
from prealign.kernels.chunked import wide_product
from prealign.model.tensor_ranks import TensorRanks, local_ids

_CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits held at a time: what fits a CPU's cache, what fills a GPU (512 MB in fp32)."""

_FUSED_LOGITS = 1 << 30
"""Logits held at a time by the kernel: 2 GB in bf16, a micro-batch of 16 x 1,024 tokens and 65,536 words."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        needs_gradient: bool,
        ranks: TensorRanks | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        ctx.weight_dtype = weight.dtype
        if _fused(hidden_states):
            losses, *gradients = _fused_forward(hidden_states, weight, targets, needs_gradient, ranks)
            ctx.save_for_backward(*gradients)
            ctx.mark_non_differentiable(losses)
            return losses.sum(), losses
        grad_hidden = torch.empty_like(hidden_states) if needs_gradient else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_gradient else None
        losses = torch.empty(len(targets), dtype=wide, device=hidden_states.device)
        step = max(1, min(len(targets), _CHUNK_LOGITS[hidden_states.device.type] // weight.shape[0]))
        # one block of memory for all chunks: on a CPU, fresh pages cost more than the arithmetic
        room = torch.empty(step, weight.shape[0], dtype=wide, device=hidden_states.device)
        for first in range(0, len(targets), step):
            rows = slice(first, first + step)
            inputs = hidden_states[rows]
            has_target = (targets[rows] != IGNORED)[:, None]
            if ranks is None:
                labels, here = torch.where(has_target, targets[rows, None], 0), has_target
            else:
                labels, here = local_ids(targets[rows, None], weight.shape[0], ranks)
            logits = room[: len(inputs)]
            if inputs.dtype == wide:
                torch.mm(inputs, weight.T, out=logits)
            else:
                logits.copy_(inputs @ weight.T)
            largest = logits.amax(dim=1, keepdim=True)
            if ranks is not None:
                ranks.max_(largest)
            logits -= largest
            target_logits = logits.gather(1, labels) * here
            denominator = logits.exp_().sum(dim=1, keepdim=True)
            if ranks is not None:
                denominator, target_logits = _added(ranks, denominator, target_logits)
            losses[rows] = ((denominator.log() - target_logits) * has_target).squeeze(1)
            if grad_hidden is not None and grad_weight is not None:
                error = logits.div_(denominator)  # softmax, and after the next line softmax - one_hot
                error.scatter_add_(1, labels, -here.to(error.dtype))
                error = error.mul_(has_target).to(hidden_states.dtype)
                torch.mm(error, weight, out=grad_hidden[rows])
                if error.dtype == wide:
                    grad_weight.addmm_(error.T, inputs)
                else:
                    grad_weight += error.T @ inputs
        if needs_gradient:
            ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            grad_hidden * grad_total.to(grad_hidden.dtype),
            (grad_weight * grad_total).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def _added(ranks: TensorRanks, *columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums over ranks of tensors of one shape, in one exchange."""
    joined = torch.stack(columns)
    ranks.add_(joined)
    return joined.unbind()


def _fused(hidden_states: torch.Tensor) -> bool:
    return hidden_states.is_cuda and hidden_states.dtype == torch.bfloat16


def _fused_forward(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    needs_gradient: bool,
    ranks: TensorRanks | None,
) -> tuple[torch.Tensor, ...]:
    """Losses, and the gradients of their sum: by the hidden states, and in fp32 by the weight."""
    from prealign.kernels.cross_entropy_triton import cross_entropy_  # imports triton

    losses = torch.empty(len(targets), dtype=torch.float32, device=hidden_states.device)
    grad_hidden = torch.empty_like(hidden_states) if needs_gradient else hidden_states.new_empty(0)
    grad_weight: torch.Tensor | None = None
    step = max(1, min(len(targets), _FUSED_LOGITS // weight.shape[0]))
    for first in range(0, len(targets), step):
        rows = slice(first, first + step)
        logits = hidden_states[rows] @ weight.T
        if ranks is None:
            losses[rows] = cross_entropy_(logits, targets[rows], IGNORED, needs_gradient)
        else:
            losses[rows] = _fused_part(logits, targets[rows], needs_gradient, ranks)
        if needs_gradient:
            torch.mm(logits, weight, out=grad_hidden[rows])
            part = wide_product(logits.T, hidden_states[rows])
            grad_weight = part if grad_weight is None else grad_weight.add_(part)
    if not needs_gradient:
        return (losses,)
    if grad_weight is None:  # no tokens
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    return losses, grad_hidden, grad_weight


def _fused_part(logits: torch.Tensor, targets: torch.Tensor, needs_gradient: bool, ranks: TensorRanks) -> torch.Tensor:
    """`cross_entropy_` of logits of which this rank has its part of each row: the kernel's two passes over a row, and
    between them what the ranks have to tell each other."""
    from prealign.kernels.cross_entropy_triton import cross_entropy_gradient_, row_statistics

    local, here = local_ids(targets, logits.shape[1], ranks)
    local = torch.where(here, local, -1)
    own_largest, sums, target_logits = row_statistics(logits, local)
    largest = own_largest.clone()
    ranks.max_(largest)
    sums, target_logits = _added(ranks, sums * (own_largest - largest).exp(), target_logits)
    log_sums = largest + sums.log()
    has_target = targets != IGNORED
    if needs_gradient:
        cross_entropy_gradient_(logits, local, torch.where(has_target, log_sums, torch.inf))
    return torch.where(has_target, log_sums - target_logits, 0.0)


def linear_cross_entropy(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, ranks: TensorRanks | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of ``hidden_states @ weight.T`` in nats.

    ``hidden_states``: ``[tokens, D]``; ``weight``: ``[V, D]``; ``targets``: int64 ``[tokens]``, `IGNORED` for no
    target. ``ranks``: who share the rows of ``weight``, of which this rank gives its ``[V / ranks, D]``; the rest is
    equal on all of them. Returns the differentiable sum (a scalar) and each token's loss (``[tokens]``, 0 where
    ignored, without gradient), both fp32, or fp64 for fp64.
    """
    if ranks is not None:
        hidden_states = ranks(hidden_states)
    return _LinearCrossEntropy.apply(hidden_states, weight, targets, torch.is_grad_enabled(), ranks)
