"""Write a trained model as a folder that Hugging Face transformers loads, with its tokenizer.

    python launchers/export.py --run runs/enclone_demo --out exports/enclone_demo
    python launchers/export.py --run runs/real_1p3b --step 5000 --dtype bf16 --out exports/real_1p3b-5000

GPT-2's settings become a GPT2LMHeadModel, Llama's a LlamaForCausalLM, and with biases or norms of queries and keys a
Qwen2ForCausalLM or Qwen3ForCausalLM. Any layout of ranks is read, tensor by tensor. The card, README.md, shows what
launchers/evaluate.py has measured of these weights; lm_eval/ has the run's injected facts for lm-evaluation-harness.
"""

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument
from prealign.config.stage import STAGES
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--run", type=path_argument, required=True, help="run folder")
    parser.add_argument("--out", type=path_argument, required=True, help="folder to write; an export there is replaced")
    parser.add_argument("--step", type=int, help="step of the stage; its end, or its newest checkpoint, by default")
    parser.add_argument("--stage", choices=STAGES, help="the last one that has weights by default")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the weights (default: fp32)")
    parser.add_argument("--shard-gb", type=float, default=4.0, help="most GB of a file of weights (default: 4)")
    parser.add_argument("overrides", nargs="*", help="data.dir=... where the data is elsewhere now")
    arguments = parser.parse_intermixed_args()

    from prealign.data.prepared import open_data
    from prealign.evaluation.loading import check_data, find_weights, recipe_of_run
    from prealign.interop.card import other_results
    from prealign.interop.export import export

    recipe = recipe_of_run(arguments.run, arguments.overrides)
    found = find_weights(arguments.run, arguments.stage, arguments.step)
    data = open_data(recipe)
    check_data(found, recipe, data)
    export(arguments.run, recipe, data, found, arguments.out, arguments.dtype, round(arguments.shard_gb * 1e9))
    if (path := other_results(arguments.run, found)) is not None:
        print(
            f"note: {path} is of other weights, or of a run folder that was copied; the card does not show it; run "
            f"launchers/evaluate.py again first"
        )
    print(f"written: {arguments.out} ({found.stage} {found.step}, {arguments.dtype})")


if __name__ == "__main__":
    run(main)
