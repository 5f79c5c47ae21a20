"""The table of packages in ``prealign/README.md`` is the order in which they import one another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.processes import ROOT


def table() -> list[str]:
    """Packages and modules in the order of the table."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "prealign/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row)]


def imports(path: Path) -> Iterator[str]:
    """What of `prealign` a file imports, by the name of the package or module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name is not None and name.startswith("prealign."):
                yield name.split(".")[1]


def test_every_package_stands_in_the_table() -> None:
    there = {path.stem for path in (ROOT / "prealign").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(table()) == there - {"__init__", "__pycache__"}


def test_packages_import_those_above_them() -> None:
    order = table()
    upwards = [
        f"{path.relative_to(ROOT)} imports {found}"
        for place, name in enumerate(order)
        for path in [*(ROOT / "prealign" / name).rglob("*.py"), ROOT / "prealign" / f"{name}.py"]
        if path.is_file()
        for found in imports(path)
        if found in order[place + 1 :]
    ]
    assert upwards == []
