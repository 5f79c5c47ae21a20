"""Turn a recipe's text and dictionaries into what training reads.

    python launchers/prepare.py --config configs/enclone_demo.yaml
    python launchers/prepare.py --config configs/enclone_demo.yaml data.dir=/scratch/demo

Running it again rebuilds only what changed. At the end it prints how much of the source text the alignment table
covers; the same, with examples, is in DATA_DIR/coverage/coverage.json.
"""

import argparse

from prealign.config import load_recipe
from prealign.corpus.preparing import has_lexicon, prepare
from prealign.errors import run
from prealign.lexicon.coverage import coverage_lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the data of a recipe.")
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config, arguments.overrides)
    prepare(recipe, say=lambda line: print(line, flush=True))
    if has_lexicon(recipe):
        print(*coverage_lines(recipe.data.dir / "coverage" / "coverage.json"), sep="\n")


if __name__ == "__main__":
    run(main)
