"""Measured steps stand beside the plan that knows nothing of them."""

from functools import partial
from pathlib import Path

import pytest

from prealign.planning.cluster import Cluster
from prealign.planning.comparison import compared, comparison_table, comparison_words
from prealign.planning.rates import rates_of
from prealign.planning.sweeps import read_sweep
from tests.planning.sweep_files import OOM, command, row, stage, write

CLUSTER_OF = partial(Cluster.of, "h100")
H100 = CLUSTER_OF(8)
RATES = rates_of(H100.device)


def test_shares_and_counts(tmp_path: Path) -> None:
    first = row(["batch.micro_batch_size=8"], {"align": stage(1, 16_384), "pretrain": stage(1)}, 8)
    path = write(tmp_path / "sweep.jsonl", [first])
    _, pretrain = compared(read_sweep(path, H100.device, 2.5).points, CLUSTER_OF, RATES)
    seconds, peak = pretrain.planned.time.total, pretrain.planned.memory.peak
    assert pretrain.time_off == pytest.approx(seconds - 1)
    near = {"pretrain": stage(seconds / 1.14, 0, peak / 1.09e9), "align": stage(9.0, 16_384, 1.0)}
    rows = [
        first | {"record": first["record"] | {"stages": near}},
        row(["batch.micro_batch_size=16"], OOM, 16),
        row(["batch.micro_batch_size=128"], OOM, 128),
    ]
    found = list(compared(read_sweep(write(path, rows), H100.device, 2.5).points, CLUSTER_OF, RATES))
    assert comparison_words(found) == (
        "1 of 2 steps within 15 % of time, 1 of 2 peaks within 10 % of memory, 1 of 2 points that were out of memory "
        "planned not to fit"
    )
    table = comparison_table(found)
    assert table[2][:3] == ["micro_batch_size=8", "8", "pretrain"]
    assert table[2][5] == "+14 %"
    assert table[2][-1] == "+9 %"
    assert "out of memory" in table[3]


def test_every_point_is_planned_on_its_own_ranks(tmp_path: Path) -> None:
    found = {"align": stage(1, 16_384), "pretrain": stage(1)}
    rows = [
        row(["batch.micro_batch_size=8"], found, 8, ranks=ranks, words=command(f"name=on_{ranks}")) for ranks in (2, 8)
    ]
    points = read_sweep(write(tmp_path / "sweep.jsonl", rows), H100.device, 2.5).points
    few, many = (row for row in compared(points, CLUSTER_OF, RATES) if row.measured.name == "pretrain")
    assert few.planned.cluster.gpus == 2
    assert few.planned.memory.parts["optimizer"] > 3 * many.planned.memory.parts["optimizer"]
