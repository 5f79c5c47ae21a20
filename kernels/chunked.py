"""The two passes in plain PyTorch, a block of rows at a time: never more than a slice of one score matrix in memory."""

import torch

from prealign.kernels.pieces import Pairs, Piece

_BLOCK_SCORES = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Scores held at a time, about ten bytes each: what fits a CPU's cache, what fills a GPU."""

_PAIR_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements of the vectors of listed pairs that are held at a time, on either side; likewise."""


def plan_lse(piece: Piece, dtype: torch.dtype) -> Piece:
    """What the pass needs to know of a piece beforehand, as in `infonce_triton`; here no more than the piece."""
    return piece


def plan_gradient(piece: Piece, dtype: torch.dtype, row_terms: bool, column_terms: bool) -> Piece:
    """Likewise, for the gradient's rows' or columns' terms, or both."""
    return piece


def row_lse(own: torch.Tensor, columns: torch.Tensor, piece: Piece, tau: float) -> torch.Tensor:
    """``log sum exp s`` of each row over the columns that it neither is nor ignores, ``[R]``.

    ``own``: ``[R, D]``, ``columns``: ``[C, D]``, unit vectors of the piece's rows and columns. fp32, or fp64 for fp64.
    """
    lse = torch.empty(len(own), dtype=_wide(own), device=own.device)
    for block in _blocks(own, columns):
        scores = wide_product(own[block], columns.T).div_(tau)
        _exclude(scores, block, piece, piece.ignored)
        lse[block] = torch.logsumexp(scores, dim=1)
    return lse


def row_gradient(
    own: torch.Tensor,
    columns: torch.Tensor,
    piece: Piece,
    tau: float,
    row_lse: torch.Tensor | None,
    column_lse: torch.Tensor | None,
) -> torch.Tensor:
    """``sum_j G_ij z_j`` for each row, ``[R, D]`` in fp32 (fp64 for fp64).

    ``row_lse``: None leaves out the terms in which the row is the anchor; ``column_lse``: None leaves out those in
    which the column is. +inf marks a word that is no anchor.
    """
    gradient = torch.empty(own.shape, dtype=_wide(own), device=own.device)
    for block in _blocks(own, columns):
        scores = wide_product(own[block], columns.T).div_(tau)
        if column_lse is not None:
            # a copy where the row terms still need the scores
            part = scores - column_lse if row_lse is not None else scores.sub_(column_lse)
            _exclude(part, block, piece, piece.ignored_by)
            matrix = part.exp_().mul_(piece.column_weight)
        if row_lse is not None:
            scores.sub_(row_lse[block, None])
            _exclude(scores, block, piece, piece.ignored)
            scores.exp_().mul_(piece.row_weight[block, None])
            matrix = scores if column_lse is None else matrix.add_(scores)
            row, column = piece.positives.within(block)
            matrix[row, column] -= piece.row_share[block][row]
        if column_lse is not None:
            row, column = piece.positive_of.within(block)
            matrix[row, column] -= piece.column_share[column]
        wide_product(matrix.to(columns.dtype), columns, out=gradient[block])
    return gradient


def pair_products(own: torch.Tensor, columns: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """``<own[row], columns[column]>`` of each pair, ``[E]`` in fp32 (fp64 for fp64)."""
    wide = _wide(own)
    products = torch.empty(len(pairs.rows), dtype=wide, device=own.device)
    step = max(1, _PAIR_ELEMENTS[own.device.type] // max(own.shape[1], 1))
    for first in range(0, len(products), step):
        part = slice(first, first + step)
        left, right = own[pairs.rows[part]].to(wide), columns[pairs.columns[part]].to(wide)
        torch.sum(left.mul_(right), dim=1, out=products[part])
    return products


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def wide_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``left @ right`` accumulated and returned in fp32 (fp64 for fp64); on a GPU without widening the operands."""
    if left.dtype.itemsize == 2 and left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.to(_wide(left)), right.to(_wide(right)), out=out)


def product_into(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``left @ right`` accumulated in fp32 and rounded once, into ``out`` of their dtype."""
    if not left.is_cuda:
        return out.copy_(wide_product(left, right))
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_bf16_reduced_precision_reduction
    split = getattr(matmul, "allow_bf16_reduced_precision_reduction_split_k", True)  # which a plain value sets to True
    matmul.allow_bf16_reduced_precision_reduction = False  # parts of a long sum are not to be rounded before they meet
    try:
        return torch.mm(left, right, out=out)
    finally:
        matmul.allow_bf16_reduced_precision_reduction = allowed if split else (allowed, split)


def _blocks(own: torch.Tensor, columns: torch.Tensor) -> list[slice]:
    """Rows in blocks that bound the scores held at a time."""
    size = max(1, _BLOCK_SCORES[own.device.type] // max(len(columns), 1))
    return [slice(first, min(first + size, len(own))) for first in range(0, len(own), size)]


def _exclude(scores: torch.Tensor, block: slice, piece: Piece, ignored: Pairs) -> None:
    """Set ignored pairs and the word itself to -inf, in place, before any maximum is taken."""
    scores[ignored.within(block)] = -torch.inf
    if not piece.include_self:
        scores[piece.same.within(block)] = -torch.inf
