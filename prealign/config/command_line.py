"""What the command lines of all launchers share. A launcher reads its own before it imports what it runs, so that help
and a mistyped option take no time."""

import argparse

from prealign.errors import EXIT_CODES


def command_line(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a launcher's own docstring, with its examples, and the exit codes."""
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    return argparse.ArgumentParser(
        description=text,
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
