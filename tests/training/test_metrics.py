"""What a run notes of itself."""

from pathlib import Path

from prealign.training.metrics import MetricsLog


def test_the_last_start_of_a_stage(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "all", [])
    assert log.last_start("pretrain") == {}
    log.start("align", 0, 10, {"compiled": False})
    log.start("pretrain", 0, 20, {"compiled": True})
    log.start("pretrain", 8, 20, {"compiled": False})
    with (tmp_path / "starts.jsonl").open("a") as file:
        file.write('{"stage": "pretr')  # killed while it wrote
    last = log.last_start("pretrain")
    assert (last["step"], last["compiled"]) == (8, False)
    assert log.last_start("align")["step"] == 0
