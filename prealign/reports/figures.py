"""Figures of a comparison of runs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from prealign.reports.runs import Run
from prealign.reports.svg import COLOURS


def draw_comparison(runs: list[Run], path: Path) -> None:
    """One panel per language, perplexity over tokens (log scale), and one of the aligned words' cosine, over tokens.

    A line per run, a colour per label.
    """
    languages = list(runs[0].recipe.languages)
    labels = list(dict.fromkeys(run.label for run in runs))
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, len(languages) + 1, figsize=(4.6 * (len(languages) + 1), 3.8))
        for axis, language in zip(axes, languages):
            _perplexity(axis, runs, labels, language)
        _cosine(axes[-1], runs, labels)
        axes[0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(path, dpi=140)
        plt.close(figure)


def _perplexity(axis: Axes, runs: list[Run], labels: list[str], language: str) -> None:
    key = f"perplexity/{language}"
    seen: set[str] = set()
    finals = []
    for run in runs:
        rows = [row for row in run.evaluations if key in row and row["tokens"] > 0]
        values = [row[key] for row in rows]
        axis.plot(
            [row["tokens"] / 1e6 for row in rows],
            values,
            color=COLOURS[labels.index(run.label) % len(COLOURS)],
            label=None if run.label in seen else run.label,
            linewidth=1.6,
        )
        seen.add(run.label)
        finals.append(values[-1])
    axis.set_yscale("log")
    axis.set_ylim(min(finals) * 0.8, max(finals) * 12)  # the first evaluations lie far above
    axis.set_title(f"Perplexity, held-out {language}", loc="left")
    axis.set_xlabel("tokens consumed (millions)")


def _cosine(axis: Axes, runs: list[Run], labels: list[str]) -> None:
    for run in runs:
        tokens, aligned, random = [], [], []
        for row in run.rows:
            if row["kind"] != "eval" or "probe_cosine_layers" not in row:
                continue
            tokens.append(row["tokens"] / 1e6)
            aligned.append(sum(row["probe_cosine_layers"]) / len(row["probe_cosine_layers"]))
            random.append(sum(row["probe_random_cosine_layers"]) / len(row["probe_random_cosine_layers"]))
        colour = COLOURS[labels.index(run.label) % len(COLOURS)]
        axis.plot(tokens, aligned, color=colour, linewidth=1.6)
        axis.plot(tokens, random, color=colour, linewidth=1.0, linestyle=":")
    axis.set_title("Cosine of translations, mean of layers\n(dotted: random pairs)", loc="left")
    axis.set_xlabel("tokens consumed (millions)")
