"""Write a run's page, RUN/report/index.html, from what lies in its folder; training writes the same one as it goes.

    python launchers/report.py --run runs/enclone_demo
    python launchers/report.py --run runs/enclone_demo data.dir=/scratch/demo     # where the data is elsewhere now

One file without requests, for a browser of any width: losses, alignment by layer, coverage, speed, starts, anomalies,
samples. launchers/compare.py sets several runs beside each other.
"""

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--run", type=path_argument, required=True, help="run folder")
    parser.add_argument("overrides", nargs="*", help="data.dir=... where the data is elsewhere now")
    arguments = parser.parse_intermixed_args()

    from prealign.data.prepared import open_data
    from prealign.evaluation.loading import recipe_of_run
    from prealign.reports.run_page import write_page_of

    path = write_page_of(arguments.run, lambda: open_data(recipe_of_run(arguments.run, arguments.overrides)))
    print(f"page: {path}")


if __name__ == "__main__":
    run(main)
