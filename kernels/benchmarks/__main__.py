"""``python -m prealign.kernels.benchmarks``: tables, every candidate in a process of its own, ours first; on a GPU also
a batch of 65,536 words, and what the kernels are meant to reach, with pass or FAIL. Eight minutes at most.

--quick          small, for a CPU
--out FILE.json  write the figures as they come, with device, versions, date and command; FILE.png beside it
--tune           tile sizes for this card and --size, in place of tables: into prealign/kernels/tiles.json, or --out
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from prealign.kernels import planned
from prealign.kernels.benchmarks.candidates import CANDIDATES, Candidate
from prealign.kernels.benchmarks.children import Children
from prealign.kernels.benchmarks.measuring import matrix_tflops, measure, pool_rates, seconds
from prealign.kernels.benchmarks.problems import many_positives, one_positive
from prealign.kernels.benchmarks.targets import MANY_WORDS, verdicts
from prealign.kernels.tiles import PATH, Tiles, capability_of

KINDS = {"many": many_positives, "one": one_positive, "large": many_positives}
TITLES = {
    "many": "groups of five words, siblings ignored",
    "one": "one positive a word, the anchor itself in the denominator",
}


def main() -> int:
    options = _parse(sys.argv[1:])
    if options.child:
        print(json.dumps(_child(options)))
        return 0
    if options.tune:
        return _tune(options)
    device = torch.device(options.device)
    children = Children(_passed_on(options))
    chosen = [candidate for candidate in CANDIDATES if not options.only or candidate.name in options.only]
    if absent := [candidate.name for candidate in chosen if candidate.missing]:
        print(f"not installed, and left out: {', '.join(absent)} (pip install {' '.join(absent)})")
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": _version("triton")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m prealign.kernels.benchmarks " + " ".join(sys.argv[1:]),
        "problem": {key: getattr(options, key) for key in ("layers", "words", "size", "tau", "dtype")},
        "rates": children.figures("rates", ""),
        "rows": [],
    }
    print(f"{report['device']}  {report['versions']}  {report['problem']}\n{json.dumps(report['rates'])}\n{_HEADER}")
    for kind, candidate in _order(chosen, large=device.type == "cuda" and options.words >= 16384):
        if candidate.missing or (candidate.gpu_only and device.type != "cuda"):
            figures: dict[str, Any] = {"skipped": "not installed" if candidate.missing else "needs a CUDA device"}
        elif kind == "large":
            many = argparse.Namespace(**vars(options) | {"words": MANY_WORDS})
            figures = children.figures(kind, candidate.name, _passed_on(many))
        else:
            figures = children.figures(kind, candidate.name)
        row = {"kind": kind, "name": candidate.name, "version": _version(candidate.name), **figures}
        if "tflops" in row and report["rates"].get("matrix_tflops"):
            row["of_matrix_rate"] = row["tflops"] / report["rates"]["matrix_tflops"]
        report["rows"].append(row)
        print(_line(row), flush=True)
        _write(report, options.out)
    print("", *(f"{kind:6} {title}" for kind, title in TITLES.items()), sep="\n")
    if "large" in {row["kind"] for row in report["rows"]}:
        print("\ntargets", *verdicts(report), sep="\n")
        report["targets"] = [dataclasses.asdict(verdict) for verdict in verdicts(report)]
    if options.out:
        _write(report, options.out)
        _plot(report, options.out.with_suffix(".png"))
        print(f"\nwritten: {options.out} and {options.out.with_suffix('.png')}")
    return 0


def _order(chosen: list[Candidate], large: bool) -> list[tuple[str, Candidate]]:
    """Kinds of batches and candidates: the kernels on all of them, then what they are measured against."""
    kinds = ("many", "one", "large") if large else ("many", "one")
    pairs = [(kind, candidate) for kind in kinds for candidate in chosen]
    pairs = [(kind, one) for kind, one in pairs if not (one.single and kind == "many")]
    pairs = [(kind, one) for kind, one in pairs if kind != "large" or one.name == "triton"]
    return sorted(pairs, key=lambda pair: pair[1].name != "triton")


def _tune(options: argparse.Namespace) -> int:
    from prealign.kernels.benchmarks.tuning import tune  # imports triton

    capability = capability_of(torch.device("cuda"))
    assert capability is not None
    children = Children(_passed_on(options), seconds=math.inf)

    def measured(case: str, tiles: Tiles) -> float | None:
        name = json.dumps([case, dataclasses.astuple(tiles)])
        figures = children.figures("tune", name)
        print(json.dumps({"case": case, **dataclasses.asdict(tiles), **figures}), flush=True)
        return figures.get("seconds")

    path = options.out or PATH
    for case, tiles in tune(path, capability, options.size, measured):
        print(f"{case}, size {options.size}, capability {capability / 10}: {tiles}", flush=True)
    print(f"written: {path}")
    return 0


def _write(report: dict[str, Any], out: Path | None) -> None:
    """What is known so far: a command that is cut off leaves it."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prealign.kernels.benchmarks", description=__doc__)
    quick = "--quick" in arguments
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, default=2 if quick else 26)
    parser.add_argument("--words", type=int, default=2048 if quick else 16384, help="even")
    parser.add_argument("--size", type=int, default=256 if quick else 2048)
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--dtype", default="float32" if quick else "bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=0.5 if quick else 1.0, help="at least, for each figure")
    parser.add_argument("--only", nargs="*", help="names of candidates")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.words < 2 or options.words % 2:
        parser.error(f"--words: found {options.words}; expected an even number, 2 or more")
    if options.tune and not torch.cuda.is_available():
        parser.error("--tune: found no CUDA device; expected one: tile sizes are measured on the card that uses them")
    return options


def _passed_on(options: argparse.Namespace) -> list[str]:
    """Arguments of the command that its measurements get."""
    keys = ("device", "layers", "words", "size", "tau", "dtype", "seconds")
    return [text for key in keys for text in (f"--{key}", str(getattr(options, key)))] + ["--quick"] * options.quick


def _child(options: argparse.Namespace) -> dict[str, Any]:
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    least = options.seconds
    if options.child == "tune":
        from prealign.kernels.benchmarks.tuning import measure as measure_tiles  # imports triton

        case, sizes = json.loads(options.name)
        return measure_tiles(case, Tiles(*sizes), options.size, least)
    if options.child == "rates":
        rates = pool_rates(min(options.layers, 8), options.words, options.size, dtype, device, least)
        relations = many_positives(1, options.words, 8, options.tau, dtype, torch.device("cpu")).relations
        rates["plan_s"] = seconds(lambda: planned(relations, False), torch.device("cpu"), 0.1)
        return {"matrix_tflops": matrix_tflops(dtype, device, least)} | rates
    candidate = next(candidate for candidate in CANDIDATES if candidate.name == options.name)
    make = KINDS[options.child]
    problem = make(options.layers, options.words, options.size, options.tau, dtype, device)
    small = make(2, min(options.words, 2048), options.size, options.tau, dtype, device)
    try:
        candidate.build(small)
    except ImportError as error:
        return {"skipped": f"not installed: {error}"}
    return measure(candidate, problem, small, least)


_HEADER = f"{'':34}{'forward':>11}{'fwd + bwd':>11}{'TFLOP/s':>9}{'of rate':>8}{'extra MB':>10}  loss, gradient error"


def _line(row: dict[str, Any]) -> str:
    for reason in ("skipped", "failed"):
        if reason in row:
            return f"{row['kind']:7}{row['name']:27}{reason}: {row[reason]}"
    return (
        f"{row['kind']:7}{row['name']:27}{row['forward_s'] * 1e3:>8.1f} ms{row['forward_backward_s'] * 1e3:>8.1f} ms"
        f"{row['tflops']:>9.3g}{row.get('of_matrix_rate', 0):>8.0%}{row['extra_bytes'] / 1e6:>10.0f}"
        f"  {row['loss_error']:.1e} {row['gradient_error']:.1e}{'' if row['same_bits'] else '  other bits each run'}"
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5), layout="constrained")
    for line, kind in zip(axes, TITLES):
        rows = [row for row in report["rows"] if row["kind"] == kind and "tflops" in row][::-1]
        names = [row["name"] for row in rows]
        line[0].barh(names, [row["forward_backward_s"] * 1e3 for row in rows], color="#4c72b0")
        line[0].set_xlabel("forward + backward, ms")
        line[0].set_title(TITLES[kind], loc="left", fontsize=9)
        line[1].barh(names, [row["extra_bytes"] / 1e6 for row in rows], color="#dd8452")
        line[1].set_xlabel("memory beyond z and its gradient, MB")
        line[1].tick_params(labelleft=False)
    size = "  ".join(f"{key}={value}" for key, value in report["problem"].items())
    figure.suptitle(f"{report['device']}   {size}", fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
