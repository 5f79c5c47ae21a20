"""A page that sets runs beside each other: results, token account, figures."""

import base64
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.evaluation.aligned import aligned_sets
from prealign.files import write_atomically
from prealign.reports.figures import draw_comparison
from prealign.reports.pages import Table, plain_table, render
from prealign.reports.paired import FEWEST, LEVEL, estimate, holm, said
from prealign.reports.runs import Run


def compare(runs: list[Run], folder: Path, title: str) -> list[str]:
    """Write ``index.html``, ``figure.png`` and ``results.json`` to ``folder``; returns the tables as plain text lines.

    The first label is the baseline. Raises `UserError` when the runs differ in languages or in tokens.
    """
    _check_comparable(runs)
    folder.mkdir(parents=True, exist_ok=True)
    figure = folder / "figure.png"
    draw_comparison(runs, figure)
    results, account, alignment, verdicts = _results(runs), _account(runs), _alignment(runs), _verdicts(runs)
    recipe = runs[0].recipe
    setting = (
        f"{recipe.model.layers} layers x {recipe.model.hidden_size}, context {recipe.model.context}, vocabulary "
        f"{recipe.vocab_size:,}, {recipe.batch.global_batch_size * recipe.model.context:,} tokens a step. "
        f"Recipe: {recipe.name}."
    )
    seeds = max(sum(other.label == run.label for other in runs) for run in runs)
    page = render(
        "comparison",
        title=title,
        setting=setting,
        baseline=runs[0].label,
        seeds=seeds,
        results=results,
        verdicts=verdicts if len(verdicts) > 1 else [],
        level=f"{100 * LEVEL:g} %",
        account=account,
        alignment=alignment if len(alignment) > 1 else [],
        figure=base64.b64encode(figure.read_bytes()).decode(),
    )
    write_atomically(folder / "index.html", page)
    write_atomically(folder / "results.json", json.dumps([_record(run) for run in runs], indent=1) + "\n")
    compared = ["", *plain_table(verdicts)] if len(verdicts) > 1 else []
    return [*plain_table(results), *compared, "", *plain_table(account)]


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


def _results(runs: list[Run]) -> Table:
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


def _verdicts(runs: list[Run]) -> Table:
    """By label and language, how far its perplexity is from the baseline's, seed by seed in percent, and whether that
    is shown: paired t-tests, corrected for all of the table (Holm)."""
    groups = _by_label(runs)
    first, *others = groups
    table = [["beside " + first, "perplexity", "difference", "corrected p", ""]]
    found: list[tuple[list[str], list[float]]] = []
    for label in others:
        for language in runs[0].recipe.languages:
            key = f"perplexity/{language}"
            one, other = (
                {run.recipe.seed: run.evaluations[-1][key] for run in groups[name]} for name in (label, first)
            )
            seeds = sorted(one.keys() & other.keys())
            found.append(([label, language], [100 * (one[seed] / other[seed] - 1) for seed in seeds]))
    estimates = [estimate(values) for _, values in found if len(values) >= FEWEST]
    corrected = iter(zip(estimates, holm([of.p for of in estimates])))
    for names, values in found:
        if len(values) < FEWEST:
            why = "no verdict from one seed" if values else "no verdict: no seed in common"
            table.append([*names, f"{values[0]:+.1f} %, 1 seed" if values else "–", "–", why])
            continue
        of, tested = next(corrected)
        low, high = of.interval(tested.level)
        verdict = ("lower" if of.mean < 0 else "higher") if tested.differs else "not shown to differ"
        difference = f"{of.mean:+.1f} % ({low:+.1f} to {high:+.1f}), {len(values)} seeds"
        table.append([*names, difference, said(tested.p), verdict])
    return table


def _account(runs: list[Run]) -> Table:
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


def _alignment(runs: list[Run]) -> Table:
    """What each label's first run with an align stage had aligned at its end."""
    table: Table = [[]]
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
