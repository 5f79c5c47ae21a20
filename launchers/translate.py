r"""Translate the source words of prepared text with an LLM behind any OpenAI-compatible endpoint.

    python launchers/translate.py --config mine.yaml --dry-run
    OPENAI_API_KEY=... python launchers/translate.py --config mine.yaml
    OPENAI_API_KEY=none python launchers/translate.py --config mine.yaml --languages de zh --limit 200 \
        translation.base_url=http://127.0.0.1:8000/v1

Needs a recipe with a section `translation` whose text is prepared; writes one word list a language under
``data.dir/llm``. The same command goes on after an interruption and asks for no word twice.

Exit codes: 0, every word has an answer; 2, a mistake (recipe, key, a request that the endpoint refuses); 3, some words
have no answer: ``failed.tsv`` says why, the same command asks for them again; 130, stopped by Ctrl-C or SIGTERM after
the replies under way were recorded (a second signal does not wait for them).
"""

import os
import signal
import sys
import threading

from prealign.config import load_recipe
from prealign.config.command_line import command_line
from prealign.errors import run

INCOMPLETE_EXIT_CODE = 3
STOPPED_EXIT_CODE = 130


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--config", required=True, help="recipe file, or its name in configs/")
    parser.add_argument("--languages", nargs="+", help="translate into these alone")
    parser.add_argument("--limit", type=int, metavar="N", help="the N most frequent words alone")
    parser.add_argument("--dry-run", action="store_true", help="print requests, tokens and cost; send nothing")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments, overrides = parser.parse_intermixed_args(), []

    from prealign.preparation.translation import WordTranslation

    languages = arguments.languages
    if languages is not None:  # takes what follows, overrides too
        overrides = [value for value in languages if "=" in value]
        languages = [value for value in languages if "=" not in value]
    recipe = load_recipe(arguments.config, arguments.overrides + overrides)
    translation = WordTranslation(recipe, languages, arguments.limit, say)
    if arguments.dry_run:
        translation.dry_run()
        return

    stop = threading.Event()
    signalled = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        signalled.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    complete = translation.run(stop)
    if signalled.is_set():
        sys.exit(STOPPED_EXIT_CODE)
    if not complete:
        sys.exit(INCOMPLETE_EXIT_CODE)


def say(line: str) -> None:
    """Print; a reader that went away (``| head``) does not end a run that has paid for replies under way."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run(main)
