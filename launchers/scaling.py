"""How transfer between languages scales: a ladder of sizes and token budgets from one command, fitted laws, and a page.

    python launchers/scaling.py --scale demo --list
    python launchers/scaling.py --scale demo --launcher 'deepspeed --num_accelerators 1'
    python launchers/scaling.py --scale demo --sizes 2x32 2x64 3x96
    python launchers/scaling.py --scale demo --predict

Ladders are `configs/scaling/SCALE.yaml`, or a file of your own (--ladder). Training goes from the smallest size to the
largest; what is finished is skipped, what was interrupted goes on, as with launchers/reproduce.py. Results are
RESULTS/SCALE/RUN.json, the page is RESULTS/SCALE/scaling.html. --predict writes what the smaller sizes say of the
largest to RESULTS/SCALE/predictions.json; the page sets what was measured later beside it.
"""

from pathlib import Path

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument, positive
from prealign.errors import run
from prealign.suites.suite import SCALES


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes of the base recipe")
    parser.add_argument("--scale", choices=SCALES, default="demo")
    parser.add_argument("--ladder", metavar="FILE", help="a ladder of your own (default: configs/scaling/SCALE.yaml)")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="train these sizes alone")
    parser.add_argument(
        "--results", type=path_argument, default=Path("runs/scaling"), help="folder for runs, results and pages"
    )
    parser.add_argument(
        "--launcher", help="what starts processes (default: deepspeed; without a GPU, with --num_accelerators 2)"
    )
    parser.add_argument("--list", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--page", action="store_true", help="write the page of what is there, run nothing")
    parser.add_argument(
        "--predict", action="store_true", help="write what the smaller sizes say of the largest, before it is trained"
    )
    parser.add_argument("--draws", type=positive, default=200, metavar="N", help="draws of the bootstrap (200)")
    parser.add_argument("--max-minutes", type=float, metavar="N", help="start no new run after N minutes")
    arguments = parser.parse_intermixed_args()

    from prealign.scaling.ladder import load_ladder
    from prealign.scaling.measured import measured
    from prealign.scaling.page import write_page
    from prealign.scaling.plan import of_sizes, plan_of
    from prealign.scaling.predictions import FILE, predict
    from prealign.suites.execution import Outcome, leave, work_on
    from prealign.suites.listing import plan_lines

    ladder = load_ladder(arguments.ladder or arguments.scale)
    whole = plan_of(ladder, arguments.scale, arguments.results, arguments.overrides)
    plan = of_sizes(whole, ladder, arguments.sizes) if arguments.sizes else whole
    if arguments.list:
        print(*plan_lines(plan), sep="\n")
        return
    if arguments.predict:
        made = predict(measured(whole, ladder), whole.folder / FILE, arguments.draws)
        print(f"{len(made.predictions)} predictions of {made.held_out}, from {len(made.fitted_to)} runs, {made.date}")
        print(f"written: {whole.folder / FILE}")
        return

    page = whole.folder / "scaling.html"
    outcome = Outcome()
    if not arguments.page:
        outcome = work_on(plan, arguments.launcher, Path(__file__).parent, arguments.max_minutes)
    print(*write_page(whole, measured(whole, ladder), page, outcome.failed, arguments.draws), sep="\n")
    print(f"\npage: {page}")
    leave(outcome, arguments.max_minutes)


if __name__ == "__main__":
    run(main)
