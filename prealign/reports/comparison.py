"""A page that sets runs beside each other: results, token account, figures."""

import base64
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from prealign.errors import UserError
from prealign.evaluation.aligned import aligned_sets
from prealign.files import write_atomically
from prealign.reports.figures import draw_comparison
from prealign.reports.runs import Run

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem } th, td { padding: .35rem .9rem; text-align: right }
th { border-bottom: 2px solid #444; font-weight: 600 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% } .note { color: #555; max-width: 46rem }
</style></head><body>
<h1>{{ title }}</h1>
<p class="note">{{ setting }}</p>
<h2>Perplexity on held-out text</h2>
{{ results }}
<p class="note">Lower is better. Percentages are against {{ baseline }}.
{% if seeds > 1 %}Mean and standard deviation over {{ seeds }} seeds.{% endif %}
Bits per byte do not depend on the tokenizer.</p>
<img src="data:image/png;base64,{{ figure }}" alt="perplexity over tokens, cosine of translations over tokens">
{% if alignment %}<h2>Words when the align stage ends</h2>
{{ alignment }}
<p class="note">Cosine of translations (its margin over random pairs; share of words whose nearest neighbour by CSLS is
a translation).</p>{% endif %}
<h2>Token account</h2>
{{ account }}
<p class="note">All runs read the same text; word batches of the align stage come beside it and cost compute. The
positions of code-switched words count as text of the language they are read in. FLOPs: 6 per parameter and token,
attention, and the alignment loss.</p>
</body></html>
"""


def compare(runs: list[Run], folder: Path, title: str) -> list[str]:
    """Write ``index.html``, ``figure.png`` and ``results.json`` to ``folder``; returns the tables as plain text lines.

    The first label is the baseline. Raises `UserError` when the runs differ in languages or in tokens.
    """
    _check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    figure = folder / "figure.png"
    draw_comparison(runs, figure)
    results, account, alignment = _results(runs), _account(runs), _alignment(runs)
    recipe = runs[0].recipe
    setting = (
        f"{recipe.model.layers} layers x {recipe.model.hidden_size}, context {recipe.model.context}, vocabulary "
        f"{recipe.vocab_size:,}, {recipe.batch.global_batch_size * recipe.model.context:,} tokens a step. "
        f"Recipe: {recipe.name}."
    )
    seeds = max(sum(other.label == run.label for other in runs) for run in runs)
    page = jinja2.Template(_TEMPLATE, autoescape=False).render(
        title=title,
        setting=setting,
        baseline=runs[0].label,
        seeds=seeds,
        results=_html(results),
        account=_html(account),
        alignment=_html(alignment) if len(alignment) > 1 else "",
        figure=base64.b64encode(figure.read_bytes()).decode(),
    )
    write_atomically(folder / "index.html", page)
    write_atomically(folder / "results.json", json.dumps([_record(run) for run in runs], indent=1) + "\n")
    return [*_plain(results), "", *_plain(account)]


def _check_comparable(runs: list[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if list(run.recipe.languages) != list(first.recipe.languages):
            raise UserError(f"{run.folder}: has other languages than {first.folder}; expected the same")
        step = run.recipe.batch.global_batch_size * run.recipe.model.context
        spent, expected = run.account.text_tokens, first.account.text_tokens
        if abs(spent - expected) > step:
            raise UserError(
                f"{run.folder}: read {spent:,} tokens of text, {first.folder} {expected:,}; expected equal numbers, to "
                "one step"
            )


def _by_label(runs: list[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def _results(runs: list[Run]) -> list[list[str]]:
    languages = list(runs[0].recipe.languages)
    header = ["run"]
    for language in languages:
        header += [f"{language} perplexity", f"{language} bits per byte"]
    table = [header]
    baseline: dict[str, float] = {}
    for label, group in _by_label(runs).items():
        row = [label]
        for language in languages:
            perplexities = [run.evaluations[-1][f"perplexity/{language}"] for run in group]
            mean = statistics.mean(perplexities)
            cell = f"{mean:.1f}"
            if len(group) > 1:
                cell += f" ± {statistics.stdev(perplexities):.1f}"
            if language in baseline:
                cell += f" ({100 * (mean / baseline[language] - 1):+.1f} %)"
            else:
                baseline[language] = mean
            row += [cell, f"{statistics.mean(run.evaluations[-1][f'bits_per_byte/{language}'] for run in group):.3f}"]
        table.append(row)
    return table


def _account(runs: list[Run]) -> list[list[str]]:
    languages = list(runs[0].recipe.languages)
    names = (f"{name}: text (+ words)" for name in languages)
    table = [["tokens", *names, "text in all", "with a target", "optimizer steps", "TFLOP"]]
    for label, group in _by_label(runs).items():
        account = group[0].account
        cells = [f"{account.text[name]:,} (+ {account.words[name]:,})" for name in languages]
        targets = f"{sum(account.targets.values()):,}" if account.targets else "not counted"
        cells += [f"{account.text_tokens:,}", targets, f"{account.steps:,}", f"{group[0].flops / 1e12:.1f}"]
        table.append([label, *cells])
    return table


def _alignment(runs: list[Run]) -> list[list[str]]:
    """What each label's first run with an align stage had aligned at its end."""
    table: list[list[str]] = [[]]
    for label, group in _by_label(runs).items():
        ends = [row["alignment"] for run in group for row in run.rows if row["kind"] == "eval" and "alignment" in row]
        for of in aligned_sets(ends[0]) if ends else []:
            table[0] = ["run", "language", "words", *of.layers]
            table.append([label, of.language, of.words, *of.layers.values()])
    return table


def _record(run: Run) -> dict[str, Any]:
    """A run in numbers, for the record."""
    last = run.evaluations[-1]
    kept = {key: value for key, value in last.items() if key.startswith(("perplexity", "bits_per_byte", "probe"))}
    account = asdict(run.account) | {"flops": run.flops}
    return {"label": run.label, "seed": run.recipe.seed, **kept, "account": account}


def _html(table: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(table[0], "th") + "".join(row(cells, "td") for cells in table[1:]) + "</table>"


def _plain(table: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in table
    ]
