"""What a run will take, without a GPU: memory by part, step time by part, MFU, days, energy, money; and the layout that
takes least.

    python launchers/plan.py --config real_1p3b --gpus 64 --device h100
    python launchers/plan.py --config real_1p3b --gpus 8 --device a100 --price 1.5 parallel.zero_stage=2
    python launchers/plan.py --config real_1p3b --device h100 --sweep --plot sweep.svg
    python launchers/plan.py --config real_1p3b --gpus 8 --measured sweep.jsonl

How it counts, and how far it has been off: prealign/planning/README.md.
"""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from prealign.config import Recipe, load_recipe
from prealign.config.command_line import command_line
from prealign.config.loading import CONFIGS
from prealign.config.paths import path_argument, positive
from prealign.config.stage import Stage, stage_of
from prealign.errors import UserError, run
from prealign.files import write_atomically
from prealign.planning.cluster import Cluster
from prealign.planning.comparison import (
    Compared,
    compared,
    comparison_record,
    comparison_table,
    comparison_words,
)
from prealign.planning.cost import RunCost, StageLoad, run_cost
from prealign.planning.devices import DEVICES, data_sheet
from prealign.planning.facts import Facts, same_work
from prealign.planning.layout import TOKENS_PER_WORD, Layout, Workload
from prealign.planning.planner import Recommendation, layout_words, limits, recommend
from prealign.planning.rates import Rates, rates_of
from prealign.planning.sweeps import Sweep, is_sweep, points_of, read_sweep
from prealign.planning.tables import Table, fit_words, memory_table, record, sweep_table, time_table, totals
from prealign.training.plan import Account, plan_of

SIZES = {"150M": "150m", "400M": "400m", "1.3B": "1p3b", "2.7B": "2p7b", "6.7B": "6p7b", "13B": "13b"}
"""Models of a sweep: name -> recipe ``real_...`` whose shape takes the place of the recipe's."""
_WIDEST = 200
"""Columns that a table may take, whatever the terminal has."""
_MOST = 10**6
"""Cards that a plan may have."""
GPUS = (8, 16, 32, 64, 128, 256, 512)


def main() -> None:
    arguments = parsed()
    recipe = load_recipe(arguments.config, arguments.overrides)
    sheet = data_sheet(arguments.device)
    files = list({os.path.realpath(path): path for path in arguments.measured or []}.values())
    sweeps = [read_sweep(path, sheet, arguments.tokens_per_word) for path in files if is_sweep(path)]
    facts = Facts(points_of(sweeps))
    records = [path for path in files if not is_sweep(path)]
    rates = rates_of(sheet, records or None)
    console = Console(highlight=False, markup=False, soft_wrap=True, width=_WIDEST)
    beside = list(compared(facts.points, partial(cluster_of, arguments), rates))
    compare(console, sweeps, beside)
    if arguments.sweep:
        rows = sweep(recipe, arguments, rates, facts)
        show(console, sweep_table(rows))
        console.print(f"rates: {'; '.join(rates.source)}")
        if arguments.plot is not None:
            from prealign.reports.sweeps import draw_sweep  # imports matplotlib

            try:
                draw_sweep(rows, arguments.plot)
            except OSError as error:
                raise not_written("--plot", arguments.plot, error) from None
            console.print(f"wrote {arguments.plot}")
        return
    cluster = cluster_of(arguments, arguments.gpus)
    loads, layouts = stage_loads(recipe, arguments.tokens_per_word)
    own = own_cost(loads, layouts, cluster, rates, arguments.price, facts)
    found = recommend(loads, layouts, cluster, rates, arguments.price, facts)
    console.print(
        f"{recipe.name}: {arguments.gpus} x {cluster.device.name}, {cluster.per_node} a node, "
        f"{cluster.link / 1e9:.0f} GB/s in a node and {cluster.network / 1e9:.0f} GB/s a card between nodes"
    )
    console.print(f"rates: {'; '.join(rates.source)}")
    if recipe.parallel.precision == "fp32":
        console.print("note: parallel.precision is fp32: bytes are counted so, seconds as of bf16, which is faster")
    if recipe.parallel.precision == "fp8":
        console.print("note: parallel.precision is fp8: bytes and seconds are counted as of bf16, which is slower")
    if any(layout.compile == "auto" for layout in layouts):
        console.print(
            "note: parallel.compile is auto: the pretrain stage is counted as compiled in layouts where a run "
            "would try it, as if that succeeded"
        )
    if facts.points:
        console.print(use_words(facts, loads, cluster))
    describe(console, "as the recipe has it", own)
    explain(console, found, own)
    if arguments.json is not None:
        plans = {"recipe": own, "recommended": found.best}
        values: dict[str, object] = {name: record(plan) for name, plan in plans.items() if isinstance(plan, RunCost)}
        if beside:
            values["measured"] = comparison_record(beside)
        write_plan(arguments.json, {"rates": rates.source} | values)


def write_plan(path: Path, values: dict[str, object]) -> None:
    """Raises `UserError`."""
    try:
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise not_written("--json", path, error) from None


def not_written(option: str, path: Path, error: OSError) -> UserError:
    return UserError(f"{option}: '{path}' cannot be written: {error.strerror}; choose another place")


def parsed() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("--gpus", type=positive, default=8, help="cards in all (8)")
    parser.add_argument("--gpus-per-node", type=positive, metavar="N", help="cards of a node (8)")
    parser.add_argument("--device", default="h100", metavar="CARD", help=", ".join(DEVICES))
    parser.add_argument("--link", type=rate, metavar="GB/S", help="between cards of a node, one direction")
    parser.add_argument("--network", type=rate, metavar="GB/S", help="between nodes, a card")
    parser.add_argument("--price", type=rate, help="of an hour of one card, in any currency")
    parser.add_argument(
        "--measured",
        type=path_argument,
        action="append",
        metavar="FILE",
        help="record of a benchmark on such a card, or file of a benchmark's --sweep",
    )
    parser.add_argument(
        "--tokens-per-word",
        type=rate,
        default=TOKENS_PER_WORD,
        metavar="N",
        help="in word batches (2.5)",
    )
    parser.add_argument("--sweep", action="store_true", help="models of 150M to 13B on 8 to 512 cards")
    parser.add_argument("--plot", type=path_argument, metavar="FILE", help="with --sweep: a figure (.svg, .png, .pdf)")
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="write the plan here")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_intermixed_args()
    if arguments.plot is not None and not arguments.sweep:
        raise UserError("--plot: found no --sweep; expected both, as the figure is of a sweep")
    if arguments.json is not None and arguments.sweep:
        raise UserError("--json: found --sweep beside it; expected one of them, as a file holds one plan (see --plot)")
    for option, cards in (("--gpus", arguments.gpus), ("--gpus-per-node", arguments.gpus_per_node)):
        if cards is not None and cards > _MOST:
            raise UserError(f"{option}: found a number of {len(str(cards))} digits; expected at most {_MOST}")
    for option, path in (("--plot", arguments.plot), ("--json", arguments.json)):
        if path is not None:
            expect_place(option, path)
    return arguments


def expect_place(option: str, path: Path) -> None:
    """Raises `UserError` where no file of that name can be made, or would take the place of something else, such as a
    folder or a device."""
    folder = path.parent
    try:
        found = path.is_symlink() or path.exists()
        if not folder.is_dir():
            reason = f"found no folder '{folder}'; make it, or choose another"
        elif not os.access(folder, os.W_OK | os.X_OK):
            reason = f"no file can be made in '{folder}'; choose another folder"
        elif found and not path.is_file():
            reason = "it is there and no file; choose a file, or a new name"
        else:
            return
    except OSError as error:
        reason = f"{error.strerror}; choose another place"
    raise UserError(f"{option}: '{path}' cannot be written: {reason}")


def rate(text: str) -> float:
    """For `argparse`: a number above 0, in a range whose products are finite."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-9 <= value <= 1e12:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a number above 0, from 1e-9 to 1e12")
    return value


def cluster_of(arguments: argparse.Namespace, gpus: int) -> Cluster:
    link, network = (None if value is None else value * 1e9 for value in (arguments.link, arguments.network))
    return Cluster.of(arguments.device, gpus, arguments.gpus_per_node, link, network)


def stage_loads(recipe: Recipe, tokens_per_word: float) -> tuple[list[StageLoad], list[Layout]]:
    """The recipe's stages with their steps, and how it lays them out. Raises `UserError`."""
    loads, layouts, consumed = [], [], Account.empty(recipe)
    for name in recipe.stages:
        stage: Stage = stage_of(recipe, name)
        plan = plan_of(recipe, name, consumed)
        if name == "align":
            consumed = Account(plan.text_tokens(recipe), dict.fromkeys(recipe.languages, 0), plan.steps)
        loads.append(StageLoad(name, Workload.of(stage, tokens_per_word), plan.steps))
        layouts.append(Layout.of(stage))
    return loads, layouts


def own_cost(
    loads: list[StageLoad], layouts: list[Layout], cluster: Cluster, rates: Rates, price: float | None, facts: Facts
) -> RunCost | UserError:
    """The recipe's own layout, or why it does not start."""
    try:
        return run_cost(loads, layouts, cluster, rates, price, facts)
    except UserError as error:
        return error


def describe(console: Console, title: str, cost: RunCost | UserError) -> None:
    """Tables of a plan."""
    if isinstance(cost, UserError):
        console.print(f"\n{title}: does not start: {cost}")
        return
    console.print(f"\n{title}: {layout_words(cost.stages[-1].layout)}")
    show(console, memory_table(cost))
    console.print(fit_words(cost))
    show(console, time_table(cost))
    for stage in cost.stages:
        if stage.measured is not None:
            console.print(f"{stage.load.name}: {stage.measured}")
    console.print(totals(cost))


def compare(console: Console, sweeps: Sequence[Sweep], beside: Sequence[Compared]) -> None:
    """What sweeps measured beside the plans of the same layouts."""
    for found in sweeps:
        for line in found.left_out:
            console.print(f"{found.path}: {line}")
    if beside:
        console.print("\nmeasured, and planned for the same layouts:")
        show(console, comparison_table(beside))
        console.print(f"{comparison_words(beside)} (the goals on a card)")


def use_words(facts: Facts, loads: Sequence[StageLoad], cluster: Cluster) -> str:
    """How many points bear on this run, in a line."""
    own = [any(same_work(stage.work, load.work) for stage in point.stages for load in loads) for point in facts.points]
    used = sum(same and point.gpus == cluster.gpus for same, point in zip(own, facts.points))
    line = f"{used} of {len(own)} measured points are of this run's steps on {cluster.gpus} GPUs: plans follow them"
    return line if used == len(own) else f"{line}, and no other"


def explain(console: Console, found: Recommendation, own: RunCost | UserError) -> None:
    """The recommended layout, and what limits it."""
    if found.best is not None:
        describe(console, "recommended", found.best)
        if isinstance(own, RunCost) and own.fits:
            console.print(f"{100 * (1 - found.best.seconds / own.seconds):.1f} % less time than the recipe's layout")
        for line in limits(found):
            console.print(f"limited by {line}")
        if found.measured is not None and not any(stage.measured for stage in found.best.stages):
            slower = 100 * (found.measured.seconds / found.best.seconds - 1)
            words = layout_words(found.measured.stages[-1].layout)
            console.print(f"the fastest that was measured: {words}: {slower:.1f} % more time than this plan has")
    elif found.smallest is not None:
        least = found.smallest
        console.print(f"\nnothing fits; the least memory: {layout_words(least.stages[-1].layout)}; {fit_words(least)}")
    else:
        console.print("\nno layout: batch.global_batch_size (or align.global_batch_size) divides by no group of ranks")


def sweep(
    recipe: Recipe, arguments: argparse.Namespace, rates: Rates, facts: Facts
) -> list[tuple[str, int, RunCost | None, str]]:
    """The recipe's run with models of `SIZES`, on `GPUS` cards."""
    rows: list[tuple[str, int, RunCost | None, str]] = []
    kept = ("layers", "hidden_size", "heads", "kv_heads", "head_size", "ffn_multiple", "ffn_size")
    for name, file in SIZES.items():
        shape = load_recipe(str(CONFIGS / f"real_{file}.yaml")).model
        model = recipe.model.model_copy(update={key: getattr(shape, key) for key in kept})
        loads, layouts = stage_loads(recipe.model_copy(update={"model": model}), arguments.tokens_per_word)
        for gpus in GPUS:
            cluster = cluster_of(arguments, gpus)
            found = recommend(loads, layouts, cluster, rates, arguments.price, facts)
            reason = "nothing fits" if found.smallest is not None else "the batch does not divide"
            rows.append((name, gpus, found.best, reason))
    return rows


def show(console: Console, table: Table) -> None:
    drawn = RichTable(*table[0], box=None, pad_edge=False)
    for column in drawn.columns[1:]:
        column.justify = "left" if column.header in ("recompute", "stage", "") else "right"
    for row in table[1:]:
        drawn.add_row(*row)
    console.print(drawn)


if __name__ == "__main__":
    run(main)
