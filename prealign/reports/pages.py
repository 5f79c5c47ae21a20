"""Pages and tables: HTML from the templates beside this file, and the same tables as plain text."""

from typing import Any

import jinja2

Table = list[list[str]]
"""Rows of cells; the first one is the header. Templates show one by ``table(rows, css_class)``."""

_TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader("prealign.reports"), autoescape=True, trim_blocks=True)


def render(template: str, **values: Any) -> str:
    """A page by its template's name (``templates/NAME.html``); values are escaped."""
    return _TEMPLATES.get_template(f"{template}.html").render(**values)


def plain_table(table: Table) -> list[str]:
    """Lines: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in table
    ]
