"""Both passes over the upper triangle of tiles: one rank, every word as a row, bf16, temperatures of 1/40 and more.

Half the scores, twice: with the product that the gradient ends in, two products of the whole matrix in place of three.
``lse`` needs no maximum here: cosines are at most 1, so ``E = 2^(s c - C)`` with ``C = c`` neither overflows nor
vanishes in fp32. On sm_90 tiles are loaded and stored by the copy engine (tensor descriptors), elsewhere through
pointers. Sums of tiles are stored and added in a fixed order.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from prealign.kernels.chunked import product_into
from prealign.kernels.infonce_triton import PAIRS, _product_kernel, _scores, _special_kernel
from prealign.kernels.relations import Relations, edges
from prealign.kernels.symmetric import SymmetricPlan, tile_shape
from prealign.kernels.tiles import tiles_for

SMALLEST_TAU = 1 / 40
"""Below it the smallest terms of a sum could vanish."""

LARGEST_MATRIX = 1 << 28
"""Elements of ``G``, held whole: 512 MiB in bf16, 16,384 words."""

_LOG2E = 1.4426950408889634
_ALIGNMENT = 64
_FINALISE = {"WORDS": 64, "TILES": 32, "num_warps": 4}
_VARYING = ["words", "row_tiles", "column_tiles"]


# fmt: off
@triton.jit
def _tile_scores(
    z, rows, columns, row0, column0, words, size, stride,
    TMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """Products of the words of a tile, fp32 ``[ROWS, COLUMNS]``; what lies beyond the last word is arbitrary."""
    tl.assume(size > 0)
    if TMA:
        scores = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for begin in range(0, size, DEPTH):
            a = rows.load([row0, begin])
            b = columns.load([column0, begin])
            if INTERPRET:  # the interpreter multiplies bf16 operands as raw bits
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            scores = tl.dot(a, b.T, scores)
    else:
        row, column = row0 + tl.arange(0, ROWS), column0 + tl.arange(0, COLUMNS)
        scores = _scores(
            z, z, row, column, words, words, size, stride, stride, DEPTH, ROWS, COLUMNS, WHOLE, INTERPRET
        )
    return scores


@triton.jit(do_not_specialize=_VARYING)
def _lse_kernel(
    z, rows, columns, order, tile_index, bits, row_sums, column_sums, words, size, stride, scale, shift,
    TMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """Row sums of a tile's terms and, above the diagonal, column sums, which are those of its mirror image's rows."""
    packed = tl.load(order + tl.program_id(0))
    masked = tl.load(tile_index + tl.program_id(0))
    row_tile, column_tile = packed >> 16, packed & 0xFFFF
    row0, column0 = row_tile * ROWS, column_tile * COLUMNS
    scores = _tile_scores(
        z, rows, columns, row0, column0, words, size, stride, TMA, ROWS, COLUMNS, DEPTH, WHOLE, INTERPRET
    )
    terms = tl.exp2(scores * scale - shift)
    if masked >= 0:
        width: tl.constexpr = COLUMNS // 32
        at = masked.to(tl.int64) * (ROWS * width) + tl.arange(0, ROWS)[:, None] * width + tl.arange(0, width)[None, :]
        left_out = ((tl.load(bits + at)[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1) != 0
        terms = tl.where(tl.reshape(left_out, (ROWS, COLUMNS)), 0.0, terms)
    row, column = row0 + tl.arange(0, ROWS), column0 + tl.arange(0, COLUMNS)
    tl.store(row_sums + column_tile.to(tl.int64) * words + row, tl.sum(terms, axis=1), mask=row < words)
    if column_tile > row_tile * ROWS // COLUMNS:
        tl.store(column_sums + row_tile.to(tl.int64) * words + column, tl.sum(terms, axis=0), mask=column < words)


@triton.jit(do_not_specialize=_VARYING)
def _finalise_kernel(
    row_sums, column_sums, anchor_weight, lse, words, row_tiles, column_tiles, shift,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WORDS: tl.constexpr, TILES: tl.constexpr,
):
    """``lse`` of a block of words from the sums of the tiles; +inf for words that are no anchors."""
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    first = (word // ROWS) * ROWS // COLUMNS  # column tile of the diagonal
    total = tl.zeros((TILES, WORDS), dtype=tl.float32)
    for begin in range(0, column_tiles, TILES):
        tile = begin + tl.arange(0, TILES)
        inside = (tile[:, None] >= first[None, :]) & (tile < column_tiles)[:, None] & (word < words)[None, :]
        place = tile.to(tl.int64)[:, None] * words + word[None, :]
        total += tl.load(row_sums + place, mask=inside, other=0.0)
    for begin in range(0, row_tiles, TILES):
        tile = begin + tl.arange(0, TILES)
        above = (tile * ROWS // COLUMNS)[:, None] < (word // COLUMNS)[None, :]
        inside = above & (tile < row_tiles)[:, None] & (word < words)[None, :]
        place = tile.to(tl.int64)[:, None] * words + word[None, :]
        total += tl.load(column_sums + place, mask=inside, other=0.0)
    result = (shift + tl.log2(tl.sum(total, axis=0))) / 1.4426950408889634
    anchor = tl.load(anchor_weight + word, mask=word < words, other=0.0) > 0
    tl.store(lse + word, tl.where(anchor, result, float("inf")), mask=word < words)


@triton.jit(do_not_specialize=_VARYING)
def _matrix_kernel(
    z, rows, columns, order, matrix, block, mirrored_block, factor, words, size, stride, matrix_stride, scale, shift,
    TMA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """A tile of ``G`` as if no pair were special, and its mirror image; beyond the last word, where wide stores reach,
    what is finite. ``factor``: ``a exp(c - lse)``, times what all of ``G`` is to be multiplied by. ``block``,
    ``mirrored_block``: descriptors of ``matrix``."""
    packed = tl.load(order + tl.program_id(0))
    row_tile, column_tile = packed >> 16, packed & 0xFFFF
    row0, column0 = row_tile * ROWS, column_tile * COLUMNS
    row, column = row0 + tl.arange(0, ROWS), column0 + tl.arange(0, COLUMNS)
    row_factor = tl.load(factor + row, mask=row < words, other=0.0)
    column_factor = tl.load(factor + column, mask=column < words, other=0.0)
    scores = _tile_scores(
        z, rows, columns, row0, column0, words, size, stride, TMA, ROWS, COLUMNS, DEPTH, WHOLE, INTERPRET
    )
    entries = tl.exp2(scores * scale - shift) * (row_factor[:, None] + column_factor[None, :])
    entries = entries.to(tl.bfloat16)
    mirror = column_tile > row_tile * ROWS // COLUMNS
    if TMA:
        block.store([row0, column0], entries)
        if mirror:
            mirrored_block.store([column0, row0], entries.T)
    else:
        place = row.to(tl.int64)[:, None] * matrix_stride + column[None, :]
        tl.store(matrix + place, entries, mask=(row < words)[:, None] & (column < matrix_stride)[None, :])
        if mirror:
            mirrored = column.to(tl.int64)[:, None] * matrix_stride + row[None, :]
            tl.store(matrix + mirrored, entries.T, mask=(column < words)[:, None] & (row < matrix_stride)[None, :])
# fmt: on


def applies(z: list[torch.Tensor], tau: float, ranks: int) -> bool:
    """Whether these passes can take the layers ``z``, whatever the relations."""
    words, size = z[0].shape
    fits = words > 0 and size > 0 and size % 8 == 0 and words < 1 << 22
    return fits and ranks == 1 and z[0].dtype == torch.bfloat16 and tau >= SMALLEST_TAU


def matrix_fits(words: int) -> bool:
    """Whether ``G`` can be held whole."""
    return words * _padded(words) <= LARGEST_MATRIX


def forward(
    z: list[torch.Tensor], relations: Relations, plan: SymmetricPlan, tau: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `prealign.kernels.passes.forward`, on one rank."""
    words, device = len(relations), z[0].device
    options = _options(z[0])
    row_tiles, column_tiles = _tile_counts(words)
    scale = _LOG2E / tau
    row_sums = torch.empty((column_tiles, words), dtype=torch.float32, device=device)
    column_sums = torch.empty((row_tiles, words), dtype=torch.float32, device=device)
    weight = relations.anchor_weight.float()
    lse = torch.empty((len(z), words), dtype=torch.float32, device=device)
    anchor, positive = edges(relations.positives)
    products = torch.empty((len(z), len(positive)), dtype=torch.float32, device=device)
    shape = {key: options[key] for key in ("ROWS", "COLUMNS")}
    for layer, own in enumerate(map(_readable, z)):
        rows, columns = _descriptors(own, options)
        size, stride = own.shape[1], own.stride(0)
        _lse_kernel[(len(plan.order),)](
            own, rows, columns, plan.order, plan.tile_index, plan.bits, row_sums, column_sums,
            words, size, stride, scale, scale, **options,
        )  # fmt: skip
        _finalise_kernel[(triton.cdiv(words, _FINALISE["WORDS"]),)](
            row_sums, column_sums, weight, lse[layer], words, row_tiles, column_tiles, scale, **shape, **_FINALISE
        )
        if len(positive):
            _product_kernel[(triton.cdiv(len(positive), PAIRS["PAIRS"]),)](
                own, own, anchor, positive, products[layer], len(positive), size, stride, stride, **PAIRS
            )
    share = (weight / relations.positives[0].diff().clamp(min=1))[anchor]
    cosines = (products * share).sum(dim=1)
    total = torch.where(weight > 0, weight * lse, 0.0).sum(dim=1)
    return total - cosines / tau, cosines, lse


def backward(
    grad_losses: torch.Tensor,
    z: list[torch.Tensor],
    lse: torch.Tensor,
    relations: Relations,
    plan: SymmetricPlan,
    tau: float,
) -> list[torch.Tensor]:
    """As `prealign.kernels.passes.backward`, on one rank."""
    words, device = len(relations), z[0].device
    options = _options(z[0])
    scale = _LOG2E / tau
    weight = relations.anchor_weight.float()
    share = weight / relations.positives[0].diff().clamp(min=1)
    shifts = lse * _LOG2E - torch.log2(weight)
    upstream = grad_losses.float() / tau  # ``G`` has it already, so that its product is the gradient
    # a denominator without any word: every pair of its anchor is special, and is not to be infinite before
    factors = torch.exp2(scale - shifts).nan_to_num_(posinf=0.0) * upstream[:, None]
    stride = _padded(words)
    matrix = torch.empty((words, stride), dtype=torch.bfloat16, device=device)
    width = -(-words // 8) * 8  # a product over a number of words that is not a multiple of eight takes a slower path
    if width > words:
        matrix[:, words:width] = 0
    block = mirrored = matrix
    if options["TMA"]:
        rows_columns = [options["ROWS"], options["COLUMNS"]]
        whole = ([words, words], [stride, 1])
        block, mirrored = (TensorDescriptor(matrix, *whole, shape) for shape in (rows_columns, rows_columns[::-1]))
    result = []
    for layer, own in enumerate(map(_readable, z)):
        rows, columns = _descriptors(own, options)
        size = own.shape[1]
        _matrix_kernel[(len(plan.order),)](
            own, rows, columns, plan.order, matrix, block, mirrored, factors[layer],
            words, size, own.stride(0), stride, scale, scale, **options,
        )  # fmt: skip
        if len(plan.pair_rows):
            _special_kernel[(triton.cdiv(len(plan.pair_rows), PAIRS["PAIRS"]),)](
                own, own, plan.pair_rows, plan.pair_columns, plan.pair_kinds, matrix,
                shifts[layer], shifts[layer], share, share, upstream[layer], 0, len(plan.pair_rows), 0,
                size, own.stride(0), own.stride(0), stride, scale,
                ROW_TERMS=True, COLUMN_TERMS=True, SCALED=True, **PAIRS,
            )  # fmt: skip
        vectors = F.pad(own, (0, 0, 0, width - words)) if width > words else own
        gradient = torch.empty_like(z[layer], memory_format=torch.contiguous_format)
        result.append(product_into(matrix[:, :width], vectors, gradient))
    return result


def _options(z: torch.Tensor) -> dict[str, int | bool]:
    """Compile-time arguments of the kernels that work on tiles."""
    interpret = bool(triton.knobs.runtime.interpret)
    tiles = tiles_for("triangle", z.dtype, z.device, z.shape[1], tile_shape(len(z)))
    engine = interpret or torch.cuda.get_device_capability(z.device)[0] >= 9
    return {
        "TMA": engine,
        "ROWS": tiles.rows,
        "COLUMNS": tiles.columns,
        "DEPTH": tiles.depth,
        "WHOLE": z.shape[1] % tiles.depth == 0,
        "INTERPRET": interpret,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _descriptors(z: torch.Tensor, options: dict[str, int | bool]) -> tuple[object, object]:
    """Of a tile's rows and columns; where pointers do, the tensor itself in their place."""
    if not options["TMA"]:
        return z, z
    return tuple(TensorDescriptor.from_tensor(z, [options[side], options["DEPTH"]]) for side in ("ROWS", "COLUMNS"))


def _readable(z: torch.Tensor) -> torch.Tensor:
    """Contiguous, and where the copy engine can read it."""
    z = z.contiguous()
    return z if z.data_ptr() % 16 == 0 else z.clone()


def _tile_counts(words: int) -> tuple[int, int]:
    rows, columns = tile_shape(words)
    return triton.cdiv(words, rows), triton.cdiv(words, columns)


def _padded(words: int) -> int:
    """Elements of a row of ``G`` in memory."""
    return -(-words // _ALIGNMENT) * _ALIGNMENT
