"""Values of a row of somebody's file, each checked when it is taken."""

import reprlib
from collections.abc import Mapping
from typing import Any

from prealign.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class Fields:
    """An object of a JSON file. ``place``: how messages name the file and the row; ``inside``: keys around the object.

    All methods raise `UserError`, "PLACE: KEY: found ...; expected ..."."""

    def __init__(self, values: Mapping[str, Any], place: str, inside: str = "") -> None:
        self._values, self._place, self._inside = values, place, inside

    def wrong(self, key: str, expected: str) -> UserError:
        """The error of a key with another value than ``expected``."""
        found = _SHORT.repr(self._values[key]) if key in self._values else "nothing"
        return UserError(f"{self._place}: {self._inside}{key}: found {found}; expected {expected}; measure it again")

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def optional_text(self, key: str) -> str | None:
        """None: it is null, or not there."""
        return None if self._values.get(key) is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts of one line."""
        values = self._values.get(key)
        if not isinstance(values, list) or not all(isinstance(value, str) and value.isprintable() for value in values):
            raise self.wrong(key, "a list of texts, each of one line")
        return tuple(values)

    def optional_bool(self, key: str) -> bool | None:
        """None: it is not there."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true, false or null")
        return value

    def whole(self, key: str, most: int) -> int:
        """A whole number of 1 to ``most``."""
        value = self._values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, least: float, most: float) -> float:
        """A number of ``least`` to ``most``."""
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def optional_number(self, key: str, least: float, most: float) -> float | None:
        """None: it is null, or not there."""
        return None if self._values.get(key) is None else self.number(key, least, most)

    def part(self, key: str) -> "Fields":
        """An object inside this one."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, self._place, f"{self._inside}{key}.")
