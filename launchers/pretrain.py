"""Train a recipe: its stages in order (align, pretrain), each going on from its last checkpoint.

    deepspeed --num_accelerators 2 launchers/pretrain.py --config configs/enclone_demo.yaml
    python launchers/pretrain.py --config configs/enclone_demo.yaml 'stages=[pretrain]' codeswitch.ratio=0 name=joint
    python launchers/pretrain.py --config configs/enclone_demo.yaml --check

SIGTERM, SIGUSR1 and SIGINT, to any rank, stop a run within two forward passes, with a checkpoint and exit code 75; a
user's mistake ends with 2, anything else that fails with 1.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prealign.config import load_recipe
from prealign.config.command_line import command_line
from prealign.config.paths import positive
from prealign.config.stage import STAGES
from prealign.errors import run

if TYPE_CHECKING:
    from prealign.objectives.terms import Objective
    from prealign.training.stage import Hook


def main(hooks: "Sequence[Hook]" = (), objectives: "Sequence[Objective]" = ()) -> None:
    """``hooks`` are called after every step, on all ranks; ``objectives`` are terms of the loss beside the two of the
    paper."""
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone")
    parser.add_argument(
        "--stop-after", type=positive, metavar="N", help="leave every stage after N steps, with a checkpoint"
    )
    parser.add_argument("--check", action="store_true", help="check recipe and data, print the plan, train nothing")
    parser.add_argument("--ranks", type=positive, default=1, help="with --check: the number of processes to plan for")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # given by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_intermixed_args()

    from prealign.data.prepared import open_data
    from prealign.distributed.world import running_world
    from prealign.evaluation.while_training import WhileTraining
    from prealign.reports.run_page import run_page
    from prealign.training.check import check
    from prealign.training.run import run_stages
    from prealign.training.signals import StopRequests
    from prealign.training.watchdog import Watchdog

    recipe = load_recipe(arguments.config, arguments.overrides)
    data = open_data(recipe)
    if arguments.check:
        check(recipe, data, arguments.ranks, say=print)
        return
    with (
        running_world(recipe.parallel.tensor_parallel_size, recipe.parallel.sequence_parallel_size) as world,
        StopRequests(world) as stop,
        Watchdog(world, recipe.folder, recipe.watchdog.timeout, lambda: stop.received) as watchdog,
    ):

        def safe_point() -> None:
            watchdog.alive()
            stop.check()

        evaluate = WhileTraining(recipe, data, world)
        with run_page(recipe.folder, data, world, print) as write_page_if_due:
            run_stages(
                recipe,
                world,
                data,
                evaluate,
                print,
                only=arguments.stage,
                stop_after=arguments.stop_after,
                safe_point=safe_point,
                hooks=(write_page_if_due, *hooks),
                objectives=objectives,
            )


if __name__ == "__main__":
    run(main)
