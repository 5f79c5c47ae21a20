"""Measure training steps: tokens/s, TFLOP/s, MFU, peak memory and where the time goes, for the align and pretrain
stage.

    python launchers/benchmark.py --config real_1p3b
    deepspeed launchers/benchmark.py --config real_1p3b --json benchmark.json parallel.zero_stage=3
    python launchers/benchmark.py --config enclone_demo --data real
    python launchers/benchmark.py --config real_1p3b --sweep batch.micro_batch_size=4,8,16 --json sweep.jsonl

Random tokens by default, so nothing need be prepared. A sweep measures every combination in a process of its own and
appends a JSON line for each to --json as it comes; the same command goes on from there.
"""

import argparse
import json
import math
import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prealign.config import Recipe, load_recipe
from prealign.config.command_line import command_line
from prealign.config.loading import validate
from prealign.config.paths import path_argument
from prealign.config.stage import STAGES, stage_of
from prealign.errors import UserError, run
from prealign.files import write_atomically


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("--data", choices=["synthetic", "real"], default="synthetic")
    parser.add_argument("--stage", choices=STAGES, action="append", help="measure this stage alone")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per stage")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument(
        "--accumulation", type=int, default=4, help="micro-batches per step, of both stages (those of batch: 0)"
    )
    parser.add_argument(
        "--json", type=path_argument, help="write the record here; of a sweep, a JSON line a combination"
    )
    parser.add_argument(
        "--sweep", metavar="KEY=V,V", action="append", help="measure each of these values of a recipe key (repeatable)"
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds for a combination of a sweep (default: 600)")
    parser.add_argument(
        "--launcher", default="python", help="what starts each of a sweep, as 'deepspeed' (default: python)"
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # given by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_intermixed_args()
    if arguments.sweep:
        sweep_over(arguments)
        return

    from prealign.data.prepared import open_data
    from prealign.distributed.world import running_world
    from prealign.training.benchmark import benchmark
    from prealign.training.words import with_words_per_step

    recipe = load_recipe(arguments.config, arguments.overrides)
    with running_world(recipe.parallel.tensor_parallel_size, recipe.parallel.sequence_parallel_size) as world:
        data = open_data(recipe) if arguments.data == "real" else None
        stages = arguments.stage or STAGES
        if data is not None:
            recipe = with_words_per_step(recipe, data, stages)  # by the steps that a run has
        for stage in (stage_of(recipe, name) for name in stages):
            if stage.word_steps is not None and stage.recipe.align.words_per_step is None:
                raise UserError(
                    f"align.coverage: found {recipe.align.coverage:g}, which is of a table and of an align stage; "
                    f"expected, for the {stage.name} stage on these tokens, align.words_per_step=N align.coverage=null"
                )
        if arguments.accumulation:
            recipe = _with_accumulation(recipe, arguments.accumulation * world.dp_size)
        record = benchmark(recipe, world, data, stages, arguments.steps, arguments.warmup)
    if world.is_first:
        record |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv)}
        show(record)
        if arguments.json is not None:
            write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")


def sweep_over(arguments: argparse.Namespace) -> None:
    """Measure a grid of recipes and print it as a table, the best first."""
    from prealign.planning.sweeps import MEASURED, recipe_digest
    from prealign.suites.benchmark_sweep import Axis, Point, Record, combinations, sweep
    from prealign.suites.launching import Processes

    if "LOCAL_RANK" in os.environ:
        raise UserError("--sweep: found a launcher of processes around it; start it with python, and give --launcher")
    if not 0 < arguments.limit < math.inf:
        raise UserError(f"--limit: found {arguments.limit:g}; expected seconds, more than 0")
    points = []
    for overrides in combinations([Axis.parse(text) for text in arguments.sweep]):
        try:
            recipe = load_recipe(arguments.config, [*arguments.overrides, *overrides])
            points.append(Point(overrides, recipe_digest(recipe)))
        except UserError as error:
            points.append(Point(overrides, None, str(error)))
    if all(point.recipe is None for point in points):
        raise UserError(points[0].refused)
    words = ["--config", arguments.config, "--data", arguments.data]
    words += [word for stage in arguments.stage or [] for word in ("--stage", stage)]
    for name in ("steps", "warmup", "accumulation"):
        words += [f"--{name}", str(getattr(arguments, name))]
    record = Record(arguments.json)
    with Processes(arguments.launcher, Path(__file__).parent) as processes:
        say = partial(print, flush=True)
        rows = sweep(points, [*words, *arguments.overrides], processes, record, arguments.limit, say)
    show_sweep(rows)
    if all(row["outcome"] != MEASURED for row in rows):
        sys.exit(1)


def show_sweep(rows: list[dict[str, Any]]) -> None:
    """Print the combinations of a sweep as a table, the fastest first."""
    from prealign.planning.sweeps import MEASURED
    from prealign.suites.benchmark_sweep import last_stage, speed

    keys = [change.partition("=")[0] for change in rows[0]["overrides"]]
    short = [key.rpartition(".")[2] for key in keys]
    headings = keys if len(set(short)) < len(short) else short
    table = Table(*headings, "tokens/s", "MFU", "peak GB", "s/step")
    for row in sorted(rows, key=lambda row: -speed(row)):
        values = [escape(change.partition("=")[2]) for change in row["overrides"]]
        if row["outcome"] != MEASURED:
            table.add_row(*values, escape(row["outcome"]))
            continue
        stage = last_stage(row)
        mfu = f"{100 * stage['mfu']:.1f} %" if stage["mfu"] is not None else "N/A"
        figures = [f"{stage['tokens_per_second']:,.0f}", mfu, f"{stage['peak_memory_gb']:.2f}"]
        table.add_row(*values, *figures, f"{stage['seconds_per_step']:.3f}")
    Console().print(table)


def _with_accumulation(recipe: Recipe, passes: int) -> Recipe:
    """The recipe with as many forward passes a step, over all ranks."""
    values = recipe.model_dump(mode="json")
    values["batch"]["global_batch_size"] = recipe.batch.micro_batch_size * passes
    return validate(values, recipe.name)


def show(record: dict[str, Any]) -> None:
    """Print a record as a table; what is not known is N/A."""
    from prealign.training.benchmark import PARTS

    title = (
        f"{record['recipe']}: {record['parameters'] / 1e6:,.0f}M parameters on {record['ranks']} x {record['device']}"
    )
    table = Table("", *record["stages"], title=title)
    measured = record["stages"].values()

    def row(name: str, cells: list[str]) -> None:
        table.add_row(name, *cells)

    row("tokens/s", [f"{stage['tokens_per_second']:,.0f}" for stage in measured])
    row("words/step", [f"{stage['words_per_step']:,}" for stage in measured])
    row("TFLOP/s per device", [f"{stage['tflops_per_device']:.3g}" for stage in measured])
    row("MFU", [f"{100 * stage['mfu']:.1f} %" if stage["mfu"] is not None else "N/A" for stage in measured])
    row("torch.compile", ["yes" if stage["compiled"] else "no" for stage in measured])
    row("peak memory (GB)", [f"{stage['peak_memory_gb']:.2f}" for stage in measured])
    row("seconds/step", [f"{stage['seconds_per_step']:.3f}" for stage in measured])
    for part in PARTS:
        row(f"  {part}", [f"{stage['seconds'][part]:.3f}" for stage in measured])
    Console().print(table)
    print(f"attention: {record['attention']}")


if __name__ == "__main__":
    run(main)
