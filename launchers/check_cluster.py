"""Look at every process's machine before a long run: python, torch and package versions, devices, all-reduce bandwidth,
the shared folder, room on disk, clocks. Names the machine that differs; exit code 0 when all is well, 2 when not.

    deepspeed --hostfile hostfile launchers/check_cluster.py --shared /scratch/runs --need-gb 100
    torchrun --nnodes 2 --nproc-per-node 8 ... launchers/check_cluster.py --shared /scratch/runs
"""

import argparse
from pathlib import Path

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--shared", type=path_argument, default=Path("runs"), help="folder that all machines must share"
    )
    parser.add_argument("--need-gb", type=float, default=0.0, help="room expected in it")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the all-reduce that is timed")
    parser.add_argument("--min-bandwidth", type=float, default=0.0, help="GB/s expected of it (bus bandwidth)")
    parser.add_argument("--max-clock-offset", type=float, default=1.0, help="seconds that clocks may differ by")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # given by the deepspeed launcher
    arguments = parser.parse_args()

    from prealign.distributed.machines import check_machines
    from prealign.distributed.world import running_world

    with running_world() as world:
        check_machines(
            world,
            arguments.shared,
            need_gb=arguments.need_gb,
            megabytes=arguments.megabytes,
            min_bandwidth=arguments.min_bandwidth,
            max_clock_offset=arguments.max_clock_offset,
        )


if __name__ == "__main__":
    run(main)
