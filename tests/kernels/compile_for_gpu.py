"""Compile every kernel for a GPU that need not be there: ``python -m tests.kernels.compile_for_gpu``, a JSON line
each."""

import json
import re
import subprocess
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime import JITFunction

from prealign.kernels import cross_entropy_triton, infonce_triton, pool_triton, symmetric_triton
from prealign.kernels.square import square_shape
from prealign.kernels.tiles import choose, read

POINTERS = {
    **dict.fromkeys(("ids", "starts", "lengths", "targets", "pair_rows", "pair_columns", "pair_kinds"), "*i64"),
    **dict.fromkeys(("order", "tile_index", "bits", "owner"), "*i32"),
    **dict.fromkeys(("maxima", "sums", "row_sums", "column_sums", "inverse", "scale", "products"), "*fp32"),
    **dict.fromkeys(("anchor_weight", "lse", "factor", "losses"), "*fp32"),
    **dict.fromkeys(("largests", "target_logits", "log_sums"), "*fp32"),
    **{f"{side}_{name}": "*fp32" for side in ("row", "column") for name in ("shift", "share")},
}
TERMS = (
    {"ROW_TERMS": True, "COLUMN_TERMS": True},
    {"ROW_TERMS": True, "COLUMN_TERMS": False, "column_shift": None},
    {"ROW_TERMS": False, "COLUMN_TERMS": True, "row_shift": None},
)
"""All words as anchors, and the two rectangles of few anchors."""

VECTORS = ("logits", "own", "columns", "matrix", "hidden", "z", "grad", "result")


DESCRIPTORS = ("rows", "columns", "block", "mirrored_block")
"""Of the symmetric kernels, where the copy engine loads and stores."""


def build(
    kernel: JITFunction,
    dtype: str,
    capability: int,
    options: dict[str, int],
    constants: dict,
    types: dict[str, str] | None = None,
) -> dict:
    """Compile one kernel; what it needs. ``types``: of arguments that are not what their names say elsewhere."""
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif types and name in types:
            signature[name] = types[name]
        elif name in ("scale", "shift"):
            signature[name] = "fp32"
        else:
            signature[name] = POINTERS.get(name, f"*{dtype}" if name in VECTORS else "i32")
    places = {name: place for place, name in enumerate(kernel.arg_names)}
    strides = [name for name in places if name.endswith(("size", "stride", "vocabulary")) and name not in constants]
    aligned = [name for name in places if signature[name].startswith("*")] + strides
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(places[name],): value for name, value in constants.items() if name in places},
        attrs={(places[name],): [["tt.divisibility", 16]] for name in aligned},
    )
    built = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = built.asm["ptx"]
    said = assembled(ptx, capability)
    return {
        "kernel": kernel.__name__,
        "dtype": dtype,
        "capability": capability,
        "shared_bytes": built.metadata.shared,
        # bytes of registers that a thread writes to memory for want of room
        "spill_bytes": max(int(count) for count in re.findall(r"(\d+) bytes spill stores", said)),
        # C75xx: products on tensor cores that wait for each other
        "warnings": [line for line in said.splitlines() if "warning" in line or "(C75" in line],
        "narrow": re.findall(r"(?:ld|st)\.global\.[bu]16", ptx),
        "tensor_cores": ("wgmma.mma_async" if capability >= 90 else "mma.sync") in ptx,
        # a step's products are under way while the next one's operands are waited for
        "products_overlap": bool(re.search(r"wgmma\.wait_group\.sync\.aligned\s+1\b", ptx)),
        "engine_loads": "cp.async.bulk.tensor" in ptx,
        "async_copies": bool(re.search(r"cp\.async\.c[ag]\.", ptx)),
        "proxy_fence": "fence.proxy.async" in ptx,
    }


def assembled(ptx: str, capability: int) -> str:
    """What the assembler says of a kernel: registers, spills, warnings."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={architecture}", "-o", "/dev/null", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def build_symmetric(capability: int) -> None:
    """The kernels over the upper triangle, with tiles for few and for many words."""
    for words in (4096, 16384):
        shape = symmetric_triton.tile_shape(words)
        tiles = choose(read(), "triangle", torch.bfloat16, capability, 2048, shape)
        rows, columns, depth = tiles.rows, tiles.columns, tiles.depth
        fixed = {"ROWS": rows, "COLUMNS": columns}
        engine = capability >= 90
        shapes = ((rows, depth), (columns, depth), (rows, columns), (columns, rows))
        types = {
            name: f"tensordesc<bf16{list(shape)}>" if engine else "*bf16" for name, shape in zip(DESCRIPTORS, shapes)
        }
        tile = fixed | {"DEPTH": depth, "TMA": engine, "WHOLE": True, "INTERPRET": False}
        options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
        for kernel in (symmetric_triton._lse_kernel, symmetric_triton._matrix_kernel):
            print(json.dumps(build(kernel, "bf16", capability, options, tile, types)))
        finalise = dict(symmetric_triton._FINALISE)
        options = {"num_warps": finalise.pop("num_warps")}
        print(json.dumps(build(symmetric_triton._finalise_kernel, "fp32", capability, options, fixed | finalise)))


def main() -> None:
    for capability in (80, 90):
        build_symmetric(capability)
        for dtype, torch_dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            tiles = choose(read(), "square", torch_dtype, capability, 2048, square_shape(torch_dtype))
            options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
            fixed = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": tiles.depth, "GROUP": 8}
            fixed |= {"WHOLE": True, "INTERPRET": False}
            pairs = infonce_triton.PAIRS
            print(json.dumps(build(infonce_triton._lse_kernel, dtype, capability, options, fixed)))
            for terms in TERMS:
                print(json.dumps(build(infonce_triton._matrix_kernel, dtype, capability, options, fixed | terms)))
                warps = {"num_warps": pairs["num_warps"]}
                for scaled in ({"SCALED": False, "factor": None}, {"SCALED": True}):
                    constants = pairs | terms | scaled
                    print(json.dumps(build(infonce_triton._special_kernel, dtype, capability, warps, constants)))
            options = {"num_warps": pairs["num_warps"]}
            print(json.dumps(build(infonce_triton._product_kernel, dtype, capability, options, pairs)))
            block = dict(cross_entropy_triton.BLOCK)
            options = {"num_warps": block.pop("num_warps")}
            kernel = cross_entropy_triton._cross_entropy_kernel
            print(json.dumps(build(kernel, dtype, capability, options, block | {"GRADIENT": True})))
            for kernel in (cross_entropy_triton._row_statistics_kernel, cross_entropy_triton._gradient_kernel):
                print(json.dumps(build(kernel, dtype, capability, options, block)))
            block = pool_triton._block(2048)
            options = {"num_warps": block["num_warps"]}
            for gather in (False, True):
                constants = {"GATHER": gather, "BLOCK": block["BLOCK"]}
                print(json.dumps(build(pool_triton._forward_kernel, dtype, capability, options, constants)))
            print(json.dumps(build(pool_triton._owner_kernel, dtype, capability, {"num_warps": 1}, {})))
            constants = {"BLOCK": block["BLOCK"], "grad_column_stride": 1}
            print(json.dumps(build(pool_triton._backward_kernel, dtype, capability, options, constants)))


if __name__ == "__main__":
    main()
