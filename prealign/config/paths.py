"""Arguments and paths as users write them: ``~`` and environment variables stand for what they stand for in a shell."""

import argparse
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})")


def expand(text: str) -> str:
    """A path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced; what exists as it is written stays. Raises
    `ValueError` for a variable that is not set and a user who is not there."""
    if Path(text).exists():
        return text
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    expanded = os.path.expandvars(home)
    if missing := _VARIABLE.search(expanded):
        raise ValueError(f"found '{text}', but the environment has no {missing[0]}; set it, or write the path out")
    return expanded


def _expanded(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    try:
        return expand(str(value))
    except RuntimeError:
        raise ValueError(f"found '{value}', whose home directory is not known; write the path out") from None


ExpandedPath = Annotated[Path, BeforeValidator(_expanded)]
ExpandedText = Annotated[str, BeforeValidator(_expanded)]
"""A path that may be a pattern."""


def positive(text: str) -> int:
    """For `argparse`: a number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a number above 0")
    return int(text)


def text_argument(text: str) -> str:
    """For `argparse`: a path of the command line, or what may be one, with the dots and slashes that were written."""
    try:
        return str(_expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path_argument(text: str) -> Path:
    """For `argparse`: a path of the command line."""
    return Path(text_argument(text))
