"""A machine that differs from the others is named."""

from pathlib import Path

from prealign.distributed.machines import _bad_clocks, _bad_folders, differing


def test_the_machine_that_differs_is_named() -> None:
    facts = [{"host": f"node{rank // 2}", "rank": rank, "torch": "2.13.0", "devices": 8} for rank in range(6)]
    assert differing(facts) == []
    for rank in (2, 3):
        facts[rank]["torch"] = "2.11.0"
    assert differing(facts) == ["node1 (ranks 2, 3): found torch 2.11.0; 4 of 6 have 2.13.0"]


def test_folders_and_clocks() -> None:
    facts = [{"host": f"node{rank}", "rank": rank} for rank in range(3)]
    seen = {"error": "", "unseen": [], "free": 50.0}
    apart = [seen | {"unseen": [2]}, seen | {"unseen": [2]}, seen | {"unseen": [0, 1]}]
    lines = _bad_folders(facts, apart, Path("/scratch"), 0.0)
    assert lines[0].startswith("node0 (rank 0): does not see in /scratch what ranks 2 on node2 wrote")
    refused = [seen, seen | {"error": "Permission denied"}, seen | {"unseen": [1]}]
    assert len(_bad_folders(facts, refused, Path("/scratch"), 0.0)) == 1
    offsets = [{"clock offset": value} for value in (0.0, 0.01, -7.0)]
    (line,) = _bad_clocks(facts, offsets, 1.0)
    assert line.startswith("node2 (rank 2): its clock differs by -7.00 s from that of node0")
