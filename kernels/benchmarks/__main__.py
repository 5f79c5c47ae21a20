"""``python -m prealign.kernels.benchmarks``: tables, every candidate in a process of its own; on a GPU also a batch of
65,536 words, and what the kernels are meant to reach, with pass or FAIL.

--quick          small, for a CPU
--out FILE.json  write the figures, with device, versions, date and command; FILE.png beside it
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from prealign.kernels import planned
from prealign.kernels.benchmarks.candidates import CANDIDATES
from prealign.kernels.benchmarks.measuring import matrix_tflops, measure, pool_rates, seconds
from prealign.kernels.benchmarks.problems import many_positives, one_positive
from prealign.kernels.benchmarks.targets import MANY_WORDS, verdicts

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
    device = torch.device(options.device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": _version("triton")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m prealign.kernels.benchmarks " + " ".join(sys.argv[1:]),
        "problem": {key: getattr(options, key) for key in ("layers", "words", "size", "tau", "dtype")},
        "rates": _run(options, "rates", ""),
        "rows": [],
    }
    print(f"{report['device']}  {report['versions']}  {report['problem']}\n{json.dumps(report['rates'])}")
    peak = report["rates"].get("matrix_tflops")
    for kind, title in TITLES.items():
        print(f"\n{title}\n{_HEADER}")
        for candidate in CANDIDATES:
            if (candidate.single and kind == "many") or (options.only and candidate.name not in options.only):
                continue
            if candidate.gpu_only and device.type != "cuda":
                figures = {"skipped": "needs a CUDA device"}
            else:
                figures = _run(options, kind, candidate.name)
            row = {"kind": kind, "name": candidate.name, "version": _version(candidate.name), **figures}
            if peak and "tflops" in row:
                row["of_matrix_rate"] = row["tflops"] / peak
            report["rows"].append(row)
            print(_line(row), flush=True)
            _write(report, options.out)
    if device.type == "cuda" and options.words >= 16384 and "triton" in (options.only or ["triton"]):
        options.words = MANY_WORDS
        report["rows"].append({"kind": "large", "name": "triton", **_run(options, "large", "triton")})
        print(f"\n{MANY_WORDS:,} words, groups of five\n{_HEADER}\n{_line(report['rows'][-1])}\n\ntargets")
        print(*verdicts(report), sep="\n")
        report["targets"] = [dataclasses.asdict(verdict) for verdict in verdicts(report)]
    if options.out:
        _write(report, options.out)
        _plot(report, options.out.with_suffix(".png"))
        print(f"\nwritten: {options.out} and {options.out.with_suffix('.png')}")
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
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.words < 2 or options.words % 2:
        parser.error(f"--words: found {options.words}; expected an even number, 2 or more")
    return options


def _run(options: argparse.Namespace, kind: str, name: str) -> dict[str, Any]:
    """Figures of one candidate, from a process of its own: what it leaves behind or breaks stays there."""
    command = [sys.executable, "-m", "prealign.kernels.benchmarks", "--child", kind, "--name", name]
    for key in ("device", "layers", "words", "size", "tau", "dtype", "seconds"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command + ["--quick"] * options.quick, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"failed": f"exit code {done.returncode}: {lines[-1][:300]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _child(options: argparse.Namespace) -> dict[str, Any]:
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    least = options.seconds
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


_HEADER = f"{'':27}{'forward':>11}{'fwd + bwd':>11}{'TFLOP/s':>9}{'of rate':>8}{'extra MB':>10}  loss, gradient error"


def _line(row: dict[str, Any]) -> str:
    for reason in ("skipped", "failed"):
        if reason in row:
            return f"{row['name']:27}{reason}: {row[reason]}"
    return (
        f"{row['name']:27}{row['forward_s'] * 1e3:>8.1f} ms{row['forward_backward_s'] * 1e3:>8.1f} ms"
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
