"""The check of a cluster's machines, on two processes of this one."""

from pathlib import Path

from tests.processes import finish, start

SCRIPT = "launchers/check_cluster.py"


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
