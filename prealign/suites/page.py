"""One HTML page of some suites: our tables beside the paper's, orders, chance, accounts, figures, commands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.config import load_recipe
from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.reports.pages import Table, plain_table, render
from prealign.suites.cells import Cell
from prealign.suites.differences import differences, loss_notes
from prealign.suites.expansion import Plan
from prealign.suites.figures import draw, draw_png
from prealign.suites.numbers import Numbers, numbers_of
from prealign.suites.results import Result
from prealign.suites.suite import Column, Row
from prealign.suites.verdicts import how_tested, in_words


def write_page(plan: Plan, path: Path, failed: dict[str, str] | None = None) -> list[str]:
    """Write the page of a plan; returns its tables and orders as plain lines. Raises `UserError`."""
    every = numbers_of(plan)
    tested = how_tested([numbers.orders for numbers in every])
    results = {result["run"]: result for numbers in every for found in numbers.results.values() for result in found}
    runs = [
        {
            "title": f"{name}: {result['device']}, {result['ranks']} processes, torch {result['versions']['torch']}, "
            f"deepspeed {result['versions']['deepspeed']}, {result['date']}",
            "commands": "\n".join(result["commands"]),
        }
        for name, result in results.items()
    ]
    title = " · ".join(suite.name for suite in plan.suites)
    page = render(
        "suites",
        title=f"PreAlign: {title}",
        scale=plan.scale,
        measured=len(results),
        expected=len(plan.measurements),
        failed=failed or {},
        tested=tested,
        suites=[_section(numbers, plan) for numbers in every],
        runs=runs,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or mend rights") from None
    lines: list[str] = []
    for numbers in every:
        lines += ["", numbers.suite.title, *plain_table(_table(numbers))]
        lines += [f"  {line}" for line in numbers.chance]
        lines += [f"  {'; '.join(row)}" for row in _orders(numbers)[1:]]
    return [*lines[1:], "", tested[0]]


def write_figures(plan: Plan, folder: Path) -> list[Path]:
    """Write the figure of each suite that has results as ``SUITE.png``; returns the files. Raises `UserError`."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for numbers in numbers_of(plan):
            content = draw_png(numbers)
            if content is not None:
                written.append(folder / f"{numbers.suite.name}.png")
                written[-1].write_bytes(content)
    except OSError as error:
        raise UserError(f"--figures: {folder}: cannot be written ({error.strerror}); choose another folder") from None
    return written


def _section(numbers: Numbers, plan: Plan) -> dict[str, Any]:
    suite = numbers.suite
    orders, account = _orders(numbers), _account(numbers)
    at = suite.scales[plan.scale]  # type: ignore[index]
    recipe = load_recipe(at.recipe, [*at.overrides, *plan.overrides])
    model = recipe.model
    higher = [column.label for column in suite.columns.values() if column.better == "higher"]
    return {
        "title": suite.title,
        "setting": f"{model.layers} layers x {model.hidden_size}, context {model.context}, "
        f"{recipe.batch.global_batch_size * model.context:,} tokens a step. Base recipe: "
        f"{at.recipe}.",
        "table": _table(numbers),
        "seeds": len(at.seeds),
        "better": f"Higher is better for {', '.join(higher)}, lower for the rest." if higher else "Lower is better.",
        "chance": numbers.chance,
        "missing": list(_missing(numbers)),
        "orders": orders if len(orders) > 1 else [],
        "of_the_paper": suite.is_of_the_paper,
        "figure": draw(numbers),
        "account": account if len(account) > 1 else [],
        "unequal": numbers.unequal,
        "differences": differences(recipe),
        "notes": [*suite.notes, *at.notes, *loss_notes(recipe)],
    }


def _table(numbers: Numbers) -> Table:
    columns = numbers.suite.columns
    table = [["", *(column.label for column in columns.values())]]
    for row in numbers.rows:
        table.append([row.label, *(_cell(numbers, row, key, column) for key, column in columns.items())])
    return table


def _cell(numbers: Numbers, row: Row, key: str, column: Column) -> str:
    paper = f" ({row.paper[key]:g})" if key in row.paper else ""
    cell = numbers.cells.get((row.label, key))
    return (_value(cell, column) if cell is not None else "–") + paper


def _value(cell: Cell, column: Column) -> str:
    if cell.mean is None:
        return "not measured" if cell.missing else "missing"
    text = f"{cell.mean:.{column.digits}f}"
    if cell.deviation is not None:
        text += f" ± {cell.deviation:.{column.digits}f}"
    if len(cell.values) < cell.expected:
        text += f" [{len(cell.values)} of {cell.expected} seeds]"
    return text


def _missing(numbers: Numbers) -> Iterator[str]:
    for row in numbers.rows:
        cells = {key: cell for (label, key), cell in numbers.cells.items() if label == row.label}
        if not numbers.results[row.label]:
            yield f"{row.label}: no result"
            continue
        reasons: dict[str, list[str]] = {}
        for key, cell in cells.items():
            if cell.mean is None:
                reasons.setdefault(cell.missing or "not measured", []).append(numbers.suite.columns[key].label)
        for reason, labels in reasons.items():
            yield f"{row.label}, {', '.join(labels)}: {reason}"


def _orders(numbers: Numbers) -> Table:
    what = "the paper's order" if numbers.suite.is_of_the_paper else "rows"
    table = [["column", what, "ahead here by", "corrected p", "verdict"]]
    for order in numbers.orders:
        values = f" ({order.paper[0]:g}, {order.paper[1]:g})" if order.paper else ""
        column = numbers.suite.columns[order.column]
        ahead = "ahead of" if order.is_of_the_paper else "beside"
        table.append([column.label, f"{order.better} {ahead} {order.worse}{values}", *in_words(order, column)])
    return table


def _account(numbers: Numbers) -> Table:
    languages = list(
        dict.fromkeys(
            name for found in numbers.results.values() for result in found for name in result["account"]["text"]
        )
    )
    names = (f"{name}: text (+ words)" for name in languages)
    table = [["run", *names, "text in all", "steps (aligning)", "TFLOP", "tokens/s"]]
    for label, found in numbers.results.items():
        for result in found:
            account = result["account"]
            spent = [_spent(account, name) for name in languages]
            steps = f"{account['steps']:,} ({account['align_steps']:,})"
            speed = f"{result['speed']:,.0f}" if result["speed"] else "–"
            total = [f"{sum(account['text'].values()):,}", steps, f"{account['flops'] / 1e12:,.1f}", speed]
            table.append([f"{label}, seed {result['seed']}", *spent, *total])
    return table


def _spent(account: Result, name: str) -> str:
    if name not in account["text"]:
        return "–"
    text, words = account["text"][name], account["words"][name]
    return f"{text:,} (+ {words:,})"
