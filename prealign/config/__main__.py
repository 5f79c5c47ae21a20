"""Print a resolved recipe: ``python -m prealign.config configs/enclone_demo.yaml [key.sub=value ...]``; with
``--reference``, every key that there is."""

import sys

from prealign.config import dump_recipe, load_recipe
from prealign.config.reference import reference
from prealign.errors import UserError, run


def main() -> None:
    if sys.argv[1:] == ["--reference"]:
        print(reference(), end="")
        return
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m prealign.config RECIPE [key.sub=value ...], or --reference")
    print(dump_recipe(load_recipe(sys.argv[1], sys.argv[2:])), end="")


if __name__ == "__main__":
    run(main)
