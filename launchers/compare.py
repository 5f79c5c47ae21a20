"""Set finished runs beside each other: a page, a figure, a table.

    python launchers/compare.py --out runs/comparison Joint=runs/joint PreAlign=runs/prealign

Runs of one label (other seeds) are averaged. The first label is the baseline; which labels differ from it is tested
over the seeds that both have, at least two.
"""

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--out", type=path_argument, required=True, help="folder for index.html, figure.png and results.json"
    )
    parser.add_argument("--title", default="Comparison of runs")
    parser.add_argument("runs", nargs="+", help="run folders, or LABEL=FOLDER")
    arguments = parser.parse_intermixed_args()

    from prealign.reports.comparison import compare
    from prealign.reports.runs import read_run

    for line in compare([read_run(argument) for argument in arguments.runs], arguments.out, arguments.title):
        print(line)
    print(f"\npage: {arguments.out / 'index.html'}   figure: {arguments.out / 'figure.png'}")


if __name__ == "__main__":
    run(main)
