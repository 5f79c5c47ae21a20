"""Measure the preparation of data and the loader on prepared data, beside raw tiktoken, Megatron's GPTDataset and a
loop over tokens in Python.

    python launchers/prepare.py --config enclone_demo
    python launchers/benchmark_data.py --config enclone_demo --json data.json

All in one run, on one core for the loader and on all cores for the preparation; figures are per second of processor
time. Megatron's part needs ``pip install --no-deps megatron-core``.
"""

import json
import platform

from prealign.config import load_recipe
from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.errors import UserError, run
from prealign.files import write_atomically


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("--megabytes", type=float, default=32.0, help="text to prepare")
    parser.add_argument("--samples", type=int, default=2048, help="sequences to read")
    parser.add_argument("--json", type=path_argument, help="write the record here")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_intermixed_args()

    import torch

    from prealign.data.prepared import open_data
    from prealign.preparation.benchmark import measure_loading, measure_preparation

    torch.set_num_threads(1)
    recipe = load_recipe(arguments.config, arguments.overrides)
    data = open_data(recipe)
    if data.lexicon is None:
        raise UserError(f"{arguments.config}: found no translations; expected a recipe that code-switches")
    record = {
        "machine": platform.processor() or platform.machine(),
        "loading": measure_loading(recipe, data, arguments.samples),
        "preparation": measure_preparation(recipe, data, arguments.megabytes),
    }
    print(json.dumps(record, indent=1))
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
