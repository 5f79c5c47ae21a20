"""Every table and figure of the paper with one command each: train and measure its runs, write a page.

    python launchers/reproduce.py table1 --scale demo --list
    python launchers/reproduce.py table1 table2 figure4 --scale demo
    python launchers/reproduce.py all --scale paper --launcher 'deepspeed --hostfile hostfile'
    python launchers/reproduce.py table5 --scale small 'languages.de.text.files=[de/*.jsonl]' ...

Suites are `configs/suites/NAME.yaml`, or files of your own. Runs that several rows or suites need are trained once;
what is finished is skipped, what was interrupted goes on from its checkpoint. Results: RESULTS/SCALE/RUN.json and a
page beside them. SIGTERM, SIGUSR1 and SIGINT stop the current run with a checkpoint, and this program with exit code
75; a run that failed leaves the others alone and ends in exit code 1. Where nothing can be prepared, for want of text
or dictionaries, nothing starts: exit code 2.
"""

from pathlib import Path

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.errors import Interrupted, UserError, run
from prealign.suites.suite import SCALES, load_suite, load_variants, suite_names, suites_at


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("names", nargs="+", metavar="SUITE", help=f"{', '.join(suite_names())}, all, or a file")
    parser.add_argument("overrides", nargs="*", help="key.sub=value: changes of every base recipe")
    parser.add_argument("--scale", choices=SCALES, default="demo")
    parser.add_argument(
        "--results", type=path_argument, default=Path("runs/suites"), help="folder for runs, results and pages"
    )
    parser.add_argument(
        "--launcher", help="what starts processes (default: deepspeed; without a GPU, with --num_accelerators 2)"
    )
    parser.add_argument("--list", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--page", action="store_true", help="write the page of what is there, run nothing")
    parser.add_argument("--figures", type=path_argument, metavar="DIR", help="write each suite's figure here too")
    parser.add_argument("--max-minutes", type=float, metavar="N", help="start no new run after N minutes")
    arguments = parser.parse_intermixed_args()

    from prealign.suites.execution import Outcome, leave, work_on
    from prealign.suites.expansion import expand
    from prealign.suites.listing import plan_lines
    from prealign.suites.page import write_figures, write_page

    words = [*arguments.names, *arguments.overrides]
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not names:
        raise UserError(f"found no suite; expected names of {suite_names()}, or 'all'")
    chosen = suites_at(arguments.scale) if "all" in names else list(dict.fromkeys(names))
    suites = [load_suite(name) for name in chosen]
    plan = expand(suites, load_variants(), arguments.scale, arguments.results, overrides)
    if arguments.list:
        print(*plan_lines(plan), sep="\n")
        return

    page = plan.folder / f"{'all' if 'all' in names else '-'.join(suite.name for suite in suites)}.html"
    outcome = Outcome()
    try:
        if not arguments.page:
            outcome = work_on(plan, arguments.launcher, Path(__file__).parent, arguments.max_minutes)
    except Interrupted:
        write_page(plan, page)
        raise
    print(*write_page(plan, page, outcome.failed), sep="\n")
    print(f"\npage: {page}")
    for path in write_figures(plan, arguments.figures) if arguments.figures is not None else []:
        print(f"figure: {path}")
    leave(outcome, arguments.max_minutes)


if __name__ == "__main__":
    run(main)
