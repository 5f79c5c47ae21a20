"""Measure a checkpoint of a run with everything that applies to it, and write RUN/evaluation/step-N.json (--split dev:
step-N-dev.json).

    python launchers/evaluate.py --run runs/enclone_demo
    deepspeed --num_accelerators 2 launchers/evaluate.py --run runs/enclone_demo --step 300 --only lm,alignment
    python launchers/evaluate.py --run runs/real_150m evaluation.parallel.de=en-de.tsv evaluation.tokens=10_000_000
    torchrun --nproc-per-node 2 launchers/evaluate.py --run-dir runs/enclone_demo    # torchrun takes --run for its own

The model is whole on every process; text is shared among them. What a measurement needs and the run does not have is
named, and the measurement skipped.
"""

import argparse
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.config.stage import STAGES
from prealign.data.contents import HELDOUT
from prealign.errors import UserError, run
from prealign.evaluation.names import MEASUREMENTS
from prealign.evaluation.results import results_path, write_results
from prealign.evaluation.table import rows


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--run", "--run-dir", type=path_argument, required=True, help="run folder; under torchrun, --run-dir"
    )
    parser.add_argument("--step", type=int, help="step of the stage; its end, or its newest checkpoint, by default")
    parser.add_argument("--stage", choices=STAGES, help="the last one that has weights by default")
    parser.add_argument("--split", choices=HELDOUT, default="test", help="held-out text (default: test)")
    parser.add_argument("--out", type=path_argument, help="folder for the results (default: RUN/evaluation)")
    parser.add_argument("--only", help=f"measurements, separated by commas, of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # given by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", help="evaluation.key=value and other changes of the run's recipe")
    arguments = parser.parse_intermixed_args()
    names = _names(arguments.only)

    import torch

    from prealign.data.prepared import open_data
    from prealign.distributed.world import running_world
    from prealign.evaluation.loading import check_data, find_weights, load_model, recipe_of_run
    from prealign.evaluation.measuring import Subject, measure

    recipe = recipe_of_run(arguments.run, arguments.overrides)
    found = find_weights(arguments.run, arguments.stage, arguments.step)
    data = open_data(recipe, arguments.split)
    check_data(found, recipe, data)
    with running_world() as world:
        model = load_model(recipe, found.value, world.device)
        subject = Subject(recipe, data, world, model, arguments.run, found.stage, found.step)
        metrics = measure(subject, names)
        if world.is_first:
            path = results_path(arguments.out or arguments.run / "evaluation", found.stage, found.step, arguments.split)
            record = {
                "run": recipe.name,
                "stage": found.stage,
                "step": found.step,
                "split": arguments.split,
                "weights": str(found.origin),
                "identity": found.identity,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": " ".join(sys.argv),
                "ranks": world.world_size,
                "torch": torch.__version__,
                "evaluation": recipe.evaluation.model_dump(mode="json"),
                "metrics": metrics,
            }
            write_results(path, record)
            table = Table(
                "", "of", "value", "", title=f"{recipe.name}: {found.stage} {found.step}, {arguments.split} text"
            )
            for row in rows(metrics):
                table.add_row(*row)
            Console().print(table)
            print(f"written: {path}")
        world.barrier()


def _names(only: str | None) -> list[str]:
    names = list(MEASUREMENTS) if only is None else [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in MEASUREMENTS:
            raise UserError(f"--only: found '{name}'; expected names of {list(MEASUREMENTS)}, separated by commas")
    if not names:
        raise UserError(f"--only: found no name; expected names of {list(MEASUREMENTS)}, separated by commas")
    return names


if __name__ == "__main__":
    run(main)
