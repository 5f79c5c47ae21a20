"""A figure of plans: what models of several sizes take on more and more cards."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from prealign.errors import UserError
from prealign.planning.cost import RunCost


def draw_sweep(rows: Sequence[tuple[str, int, RunCost | None, str]], path: Path) -> None:
    """MFU, and days of a run, over the number of cards, a line a model. The format is that of the file's name; raises
    `UserError` for one that matplotlib does not know."""
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
        names = list(dict.fromkeys(row[0] for row in rows))
        colours = plt.get_cmap("viridis", len(names) + 1)  # the last is too light; sizes are an order
        for number, name in enumerate(names):
            runs = [(gpus, run) for model, gpus, run, _ in rows if model == name and run is not None]
            cards = [gpus for gpus, _ in runs]
            style = {"color": colours(number), "linewidth": 1.6, "marker": "o", "markersize": 3}
            left.plot(cards, [100 * run.stages[-1].mfu for _, run in runs], label=name, **style)
            right.plot(cards, [run.seconds / 86_400 for _, run in runs], **style)
        for axis, title in ((left, "MFU of pretraining, %"), (right, "Days of the run")):
            axis.set_xscale("log", base=2)
            axis.set_title(title, loc="left")
            axis.set_xlabel("cards")
            axis.xaxis.set_major_formatter("{x:.0f}")
        left.set_ylim(bottom=0)
        right.set_yscale("log")
        left.legend(frameon=False, ncols=2)
        figure.tight_layout()
        try:
            figure.savefig(path)
        except ValueError as error:
            raise UserError(f"--plot: '{path}': {str(error).split(';')[0]}; expected .svg, .png or .pdf") from None
        finally:
            plt.close(figure)
