"""What a card reaches: from records that were measured on one, else from its data sheet and what one H100 reached of
its own."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import prealign
from prealign.config.loading import CONFIGS
from prealign.errors import UserError
from prealign.planning.devices import DataSheet, expect_device

# What the H100 of configs/results/h100 reached, as a share of its sheet; other cards are taken to reach as much.
PRODUCT_OF_BEST = 0.841
"""Mean rate of a 1.3B model's six products (ceilings.json: 666 TFLOP/s) over the best product of that card (792)."""
COPY_OF_BANDWIDTH = 0.899
"""Copies (ceilings.json: 3.01 TB/s) over the memory's rate (3.35)."""
ATTENTION_OF_BEST = 0.285
"""Causal attention forward and backward (ceilings.json: 226 TFLOP/s) over the best product."""
ELEMENTWISE_OF_COPY = 0.9
"""Kernels that read and write other shapes than a copy: 2.7 TB/s, with which an H100's step of 1.3B (1p3b_recipe.json)
comes out as measured."""
OPTIMIZER_OF_COPY = 0.443
"""DeepSpeed's step moves 94 bytes a parameter: clip, norm, AdamW, copies (1p3b_recipe.json: 100 ms for 1.416B)."""
INFONCE_TRIANGLE_OF_BEST = 1.293
INFONCE_SQUARE_OF_BEST = 0.739
"""Three products of all pairs (kernels/README.md: 16,384 and 4,096 words, whose difference gives rate and overhead)."""
INFONCE_TRIANGLE_LAYER = 0.48e-3
INFONCE_SQUARE_LAYER = 0.72e-3
"""Seconds a layer that do not grow with words: launches and edges."""

OPTIMIZER_BYTES = 94.0
"""Bytes of memory traffic a parameter in DeepSpeed's step with torch's fused AdamW."""


@dataclass(frozen=True)
class Rates:
    """FLOP/s and bytes/s of one card. ``products``: matrix products; ``attention``: causal, forward and backward, of
    half the square of pairs; ``optimizer``: bytes/s of the optimizer step; ``triangle``, ``square``: the alignment loss
    on one rank and on several, with ``*_layer`` seconds a layer beside. ``source``: where they come from."""

    products: float
    copy: float
    attention: float
    elementwise: float
    optimizer: float
    triangle: float
    square: float
    triangle_layer: float
    square_layer: float
    source: tuple[str, ...]


def sheet_rates(device: DataSheet) -> Rates:
    """Rates of a card of which nothing is measured."""
    best, copy = device.best_product * device.peak, COPY_OF_BANDWIDTH * device.bandwidth
    return Rates(
        products=PRODUCT_OF_BEST * best,
        copy=copy,
        attention=ATTENTION_OF_BEST * best,
        elementwise=ELEMENTWISE_OF_COPY * copy,
        optimizer=OPTIMIZER_OF_COPY * copy,
        triangle=INFONCE_TRIANGLE_OF_BEST * best,
        square=INFONCE_SQUARE_OF_BEST * best,
        triangle_layer=INFONCE_TRIANGLE_LAYER,
        square_layer=INFONCE_SQUARE_LAYER,
        source=(f"data sheet of {device.name}, times what an H100 reached of its own",),
    )


def rates_of(device: DataSheet, measured: list[Path] | None = None) -> Rates:
    """Rates from records: of `prealign.kernels.benchmarks.ceilings`, `launchers/benchmark.py` and
    `prealign.kernels.benchmarks`, in any order. None: those in the tree, where it has some of this card. What no record
    has is from the data sheet. Raises `UserError`."""
    rates = sheet_rates(device)
    paths = committed_records(device) if measured is None else measured
    pairs: list[tuple[float, float]] = []
    for path in paths:
        record = _read(path)
        name = str(record.get("device", ""))
        if measured is not None:
            expect_device(device, name, path)
        try:
            if "product_tflops" in record:
                rates = _of_ceilings(rates, record)
            elif "stages" in record:
                rates = _of_steps(rates, record)
            elif "problem" in record and "rows" in record:
                pairs += _infonce(record)
            else:
                raise UserError(
                    f"--measured: {path} has the keys {sorted(record)[:8]}; expected a record of "
                    f"prealign.kernels.benchmarks.ceilings, launchers/benchmark.py or prealign.kernels.benchmarks"
                )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
            raise UserError(
                f"--measured: {path} lacks what such a record has ({type(error).__name__}: {error}); measure it again"
            ) from None
    if len(pairs) >= 2:
        rates = _of_infonce(rates, sorted(pairs))
    _expect_rates(rates, paths)
    if not paths:
        return rates
    missing = [] if len(pairs) >= 2 else ["alignment loss"]
    names = ", ".join(path.name if measured is not None else f"{path.parent.name}/{path.name}" for path in paths)
    note = f"measured ({names})" + (f"; {', '.join(missing)} from the data sheet" if missing else "")
    return replace(rates, source=(note, "links from the data sheet"))


def _expect_rates(rates: Rates, paths: Sequence[Path]) -> None:
    """Raises `UserError` for what no card reaches: not finite, or out of all ranges."""
    for key, value in asdict(rates).items():
        least, most = (0.0, 1e6) if key.endswith("_layer") else (1e3, 1e24)
        if key != "source" and not least <= value <= most:
            names = ", ".join(map(str, paths))
            raise UserError(
                f"--measured: {names}: {key}: found {value:g}; expected a number from {least:g} to {most:g}; "
                f"measure it again"
            )


def committed_records(device: DataSheet) -> list[Path]:
    """Records of this card that come with the package."""
    if device.name != "H100":
        return []
    kernels = Path(prealign.__file__).parent / "kernels"
    results = (kernels if kernels.is_dir() else kernels.parents[1] / "kernels") / "benchmarks" / "results"
    steps = CONFIGS / "results" / "h100"
    found = [steps / "ceilings.json", steps / "1p3b_recipe.json", results / "h100.json", results / "h100_4096.json"]
    return [path for path in found if path.is_file()]


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--measured: {path} cannot be read ({error.strerror}); expected a JSON record") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"--measured: {path} is not JSON, nor is a line of it a whole row of a sweep; expected the record of a "
            f"benchmark, or the file of its --sweep"
        ) from None
    if not isinstance(record, dict):
        raise UserError(f"--measured: {path} holds a list or a value; expected the record of a benchmark")
    return record


def _of_ceilings(rates: Rates, record: dict[str, Any]) -> Rates:
    products = list(record["product_tflops"].values())
    copy = record["copy_gb_s"] * 1e9
    attention = record.get("attention_tflops", {}).get("default")
    return replace(
        rates,
        products=1e12 * sum(products) / len(products),
        copy=copy,
        elementwise=ELEMENTWISE_OF_COPY * copy,
        optimizer=OPTIMIZER_OF_COPY * copy,
        attention=1e12 * attention if isinstance(attention, float) else rates.attention,
    )


def _of_steps(rates: Rates, record: dict[str, Any]) -> Rates:
    stage = record["stages"].get("pretrain") or next(iter(record["stages"].values()))
    share = record["parameters"] / record["ranks"]
    return replace(rates, optimizer=OPTIMIZER_BYTES * share / stage["seconds"]["optimizer"])


def _infonce(record: dict[str, Any]) -> list[tuple[float, float]]:
    """(three products of all pairs in FLOP a layer, seconds a layer) of the kernels on one rank."""
    problem = record["problem"]
    flops = 6.0 * problem["words"] ** 2 * problem["size"]
    rows = [row for row in record["rows"] if row.get("name") == "triton" and row.get("kind") == "many"]
    return [(flops, row["forward_backward_s"] / problem["layers"]) for row in rows if "forward_backward_s" in row]


def _of_infonce(rates: Rates, pairs: list[tuple[float, float]]) -> Rates:
    """The line through the smallest and the largest problem."""
    (small, quick), (large, slow) = pairs[0], pairs[-1]
    if large <= small or slow <= quick:
        return rates
    rate = (large - small) / (slow - quick)
    return replace(rates, triangle=rate, triangle_layer=max(0.0, quick - small / rate))
