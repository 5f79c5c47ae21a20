"""The check of a cluster's machines, on two processes of this one."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, finish, start

SCRIPT = "launchers/check_cluster.py"


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / SCRIPT))


def test_two_processes(tmp_path: Path) -> None:
    code, out, error = finish(start([SCRIPT, "--shared", str(tmp_path / "runs"), "--megabytes", "4"], ranks=2))
    assert code == 0, error
    assert "ranks: 2 on" in out
    assert "GB/s bus bandwidth, 4 MiB" in out
    assert list((tmp_path / "runs").iterdir()) == []


def test_no_room_ends_in_one_line(tmp_path: Path) -> None:
    code, _, error = finish(start([SCRIPT, "--shared", str(tmp_path), "--need-gb", "1e9", "--megabytes", "1"]))
    assert code == 2
    assert "(rank 0): found" in error
    assert "expected 1000000000.0 GB" in error
    assert "Traceback" not in error


def test_the_machine_that_differs_is_named(functions: dict[str, Any]) -> None:
    facts = [{"host": f"node{rank // 2}", "rank": rank, "torch": "2.13.0", "devices": 8} for rank in range(6)]
    assert functions["differing"](facts) == []
    for rank in (2, 3):
        facts[rank]["torch"] = "2.11.0"
    assert functions["differing"](facts) == ["node1 (ranks 2, 3): found torch 2.11.0; 4 of 6 have 2.13.0"]


def test_folders_and_clocks(functions: dict[str, Any]) -> None:
    facts = [{"host": f"node{rank}", "rank": rank} for rank in range(3)]
    seen = {"error": "", "unseen": [], "free": 50.0}
    apart = [seen | {"unseen": [2]}, seen | {"unseen": [2]}, seen | {"unseen": [0, 1]}]
    lines = functions["_bad_folders"](facts, apart, Path("/scratch"), 0.0)
    assert lines[0].startswith("node0 (rank 0): does not see in /scratch what ranks 2 on node2 wrote")
    refused = [seen, seen | {"error": "Permission denied"}, seen | {"unseen": [1]}]
    assert len(functions["_bad_folders"](facts, refused, Path("/scratch"), 0.0)) == 1
    offsets = [{"clock offset": value} for value in (0.0, 0.01, -7.0)]
    (line,) = functions["_bad_clocks"](facts, offsets, 1.0)
    assert line.startswith("node2 (rank 2): its clock differs by -7.00 s from that of node0")
