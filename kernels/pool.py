"""Word vectors from token vectors: mean over a span, then unit length."""

import torch


def pool_spans(hidden: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """``z_w = m_w / max(|m_w|, eps)`` with ``m_w = mean(hidden[starts_w : starts_w + lengths_w])`` (paper, Eq. 1).

    ``hidden``: ``[tokens, D]``; ``starts``, ``lengths``: int64 ``[W]``, lengths at least 1. Returns ``[W, D]`` in the
    dtype of ``hidden``; sums and norms are taken in fp32 (or fp64 for fp64). A span of zero norm gives a zero vector
    and a finite gradient.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    offsets = torch.arange(int(lengths.max()) if len(lengths) else 1, device=hidden.device)
    inside = offsets[None, :] < lengths[:, None]
    index = starts[:, None] + torch.where(inside, offsets[None, :], 0)
    rows = hidden[index].to(wide) * inside[:, :, None]
    mean = rows.sum(dim=1) / lengths[:, None]
    # max(|m|^2, eps^2) before the root: the root's gradient at zero would be infinite
    norm = mean.square().sum(dim=1, keepdim=True).clamp(min=eps * eps).sqrt()
    return (mean / norm).to(hidden.dtype)
