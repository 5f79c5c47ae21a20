"""Make a Hugging Face checkpoint ready to be aligned and trained on: print the keys of a recipe that fit it, and with
--out write them as a file for a recipe's `base`, with its tokenizer.

    python launchers/import_hf.py models/Qwen2.5-0.5B
    python launchers/import_hf.py models/Qwen2.5-0.5B --out imported/qwen
    python launchers/import_hf.py Qwen/Qwen2.5-0.5B --out imported/qwen

GPT-2, Llama, Qwen2 and Qwen3, with safetensors; byte-level BPE. Weights stay where they are, in the folder or, of a
model of the hub, in its cache (HF_HOME): training reads them from there when it begins.
"""

from prealign.config.command_line import command_line
from prealign.config.paths import path_argument, text_argument
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "checkpoint",
        type=text_argument,
        help="folder with config.json, safetensors and tokenizer.json, or a model of the hub: OWNER/NAME[@REVISION]",
    )
    parser.add_argument("--out", type=path_argument, help="folder to write; an import there is replaced")
    parser.add_argument("--end-of-document", metavar="NAME", help="special token that ends a document")
    arguments = parser.parse_args()

    from prealign.interop.importing import RECIPE, read_import, write

    found = read_import(arguments.checkpoint, arguments.end_of_document)
    if arguments.out is None:
        print(found.recipe(), end="")
        return
    write(found, arguments.out)
    print(f"written: {arguments.out / RECIPE}; a recipe takes it by base: [..., {arguments.out.resolve() / RECIPE}]")
    if found.tokenizer is None:
        print(f"note: {arguments.checkpoint} has no tokenizer.json; give data.tokenizer.ranks yourself")


if __name__ == "__main__":
    run(main)
