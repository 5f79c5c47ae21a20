"""Turn a recipe's text and dictionaries into what training reads.

    python launchers/prepare.py --config configs/enclone_demo.yaml
    python launchers/prepare.py --config configs/enclone_demo.yaml data.dir=/scratch/demo
    python launchers/prepare.py --config configs/enclone_demo.yaml --verify
    python launchers/prepare.py --config configs/enclone_demo.yaml --inspect 3
    python launchers/prepare.py --config real_150m --inspect 20 --language de

Running it again rebuilds only what changed; a run that was killed goes on where it last wrote. At the end it prints how
much of the source text the alignment table covers; the same, with examples, is in DATA_DIR/coverage/coverage.json.
"""

from prealign.config import load_recipe
from prealign.config.command_line import command_line
from prealign.config.paths import positive
from prealign.errors import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument(
        "--verify", action="store_true", help="prepare nothing; check every byte and invariant of what is there"
    )
    parser.add_argument(
        "--inspect",
        type=positive,
        nargs="?",
        const=3,
        metavar="N",
        help="prepare nothing; print N code-switched samples",
    )
    parser.add_argument("--language", help="with --inspect: N words replaced by words of this language")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_intermixed_args()

    from prealign.data.contents import has_lexicon
    from prealign.data.inspecting import inspect
    from prealign.data.prepared import open_data
    from prealign.lexicon.coverage import coverage_lines
    from prealign.preparation.pipeline import prepare
    from prealign.preparation.verifying import verify_data

    recipe = load_recipe(arguments.config, arguments.overrides)
    if arguments.language is not None and arguments.inspect is None:
        parser.error("--language: goes with --inspect; without it every language of the recipe is prepared")
    if not arguments.verify and arguments.inspect is None:
        prepare(recipe, say=_say)
        if has_lexicon(recipe):
            print(*coverage_lines(recipe.data.dir / "coverage" / "coverage.json"), sep="\n")
    if arguments.verify:
        verify_data(open_data(recipe), say=_say)
    if arguments.inspect is not None:
        inspect(open_data(recipe), arguments.inspect, arguments.language, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main)
