"""Sweeps are read as what was measured: step, layout and ranks of every point."""

import json
from pathlib import Path
from typing import Any

import pytest

from prealign.config import load_recipe
from prealign.errors import UserError
from prealign.planning.devices import data_sheet
from prealign.planning.sweeps import Sweep, is_sweep, points_of, read_sweep, recipe_digest
from tests.planning.sweep_files import OOM, command, row, stage, write

BOTH = {"align": stage(1.5, 16_384, 50.0), "pretrain": stage(1.2)}


def read(path: Path, rows: list[dict[str, Any]], device: str = "h100") -> Sweep:
    return read_sweep(write(path / "sweep.jsonl", rows), data_sheet(device), 2.5)


def test_a_point_is_its_step_and_layout(tmp_path: Path) -> None:
    (point,) = read(tmp_path, [row(["parallel.zero_stage=3", "batch.micro_batch_size=8"], BOTH, 8)]).points
    assert point.gpus == 8
    align, pretrain = point.stages
    assert (align.name, align.seconds, align.memory, align.mfu) == ("align", 1.5, 50e9, 0.4)
    assert (align.work.words, pretrain.work.words) == (16_384, 0)
    assert align.work.sequences == pretrain.work.sequences == 4 * 8 * 8  # not the recipe's 1,024
    assert (pretrain.layout.zero_stage, pretrain.layout.micro_batch_size) == (3, 8)


def test_a_stage_is_compiled_as_its_record_says(tmp_path: Path) -> None:
    found = {name: values | {"compiled": False} for name, values in BOTH.items()}
    (point,) = read(tmp_path, [row(["batch.micro_batch_size=8"], found, 8)]).points
    assert point.stages[1].layout.compile is point.layouts["pretrain"].compile is False  # a trial failed
    (point,) = read(tmp_path, [row(["batch.micro_batch_size=8"], BOTH, 8)]).points
    assert point.stages[1].layout.compile == "auto"  # of a record of before
    found = {name: values | {"compiled": "yes"} for name, values in BOTH.items()}
    with pytest.raises(UserError, match=r"row 1: record.stages.align.compiled: found 'yes'; expected true, false"):
        read(tmp_path, [row(["batch.micro_batch_size=8"], found, 8)])


def test_overrides_of_the_command_count(tmp_path: Path) -> None:
    words = command("--pretrain", "parallel.activation_checkpointing=full", "align.layers=[0,", "5]")
    values = row(["batch.micro_batch_size=8"], {"pretrain": stage(1.2)}, 8)
    other = row(["parallel.activation_checkpointing=full", "align.layers=[0, 5]", "batch.micro_batch_size=8"], OOM, 8)
    values |= {"command": words, "recipe": other["recipe"]}
    (point,) = read(tmp_path, [values]).points
    assert [stage.name for stage in point.stages] == ["pretrain"]
    assert point.stages[0].layout.recompute == 1


def test_what_was_out_of_memory_is_of_the_cards_of_the_others(tmp_path: Path) -> None:
    fitting, large = row(["batch.micro_batch_size=8"], BOTH, 8), row(["batch.micro_batch_size=32"], OOM, 32)
    points = read(tmp_path, [fitting, large, row(["batch.micro_batch_size=64"], "not tried: too large", 64)]).points
    assert [point.fitted for point in points] == [True, False]
    assert (points[1].gpus, points[1].stages[0].work.sequences) == (8, 4 * 32 * 8)
    alone = read(tmp_path, [large])
    assert alone.points == ()
    assert alone.left_out == ("1 left out: out of memory on cards that no measured point of the same command names",)
    others = [fitting, row(["batch.micro_batch_size=4"], BOTH, 4, ranks=4)]
    assert len(read(tmp_path, [*others, large]).points) == 2  # of 4 ranks, or of 8?


def test_the_last_row_of_a_point_counts(tmp_path: Path) -> None:
    point = ["batch.micro_batch_size=8"]
    rows = [row(point, "stopped after 300 s", 8), row(point, {"align": stage(2), "pretrain": stage(2)}, 8)]
    assert [point.stages[0].seconds for point in read(tmp_path, [*rows, row(point, BOTH, 8)]).points] == [1.5]


def test_words_count_as_often_as_they_were_measured(tmp_path: Path) -> None:
    overrides = ["pretrain.align_every=4", "pretrain.align_words_per_step=1000", "batch.micro_batch_size=8"]
    (point,) = read(tmp_path, [row(overrides, BOTH | {"pretrain": stage(1.2, 400)}, 8)]).points
    assert point.stages[1].work.words_every == 2.5  # two of five steps
    assert "had its words" in read(tmp_path, [row(overrides, BOTH, 8)]).left_out[0]


def test_a_recipe_that_has_changed_is_left_out(tmp_path: Path) -> None:
    changed = row(["batch.micro_batch_size=8"], BOTH, 8) | {"recipe": "another"}
    found = read(tmp_path, [changed])
    assert found.points == ()
    assert found.left_out[0].startswith("1 left out: 'real_1p3b', or what a recipe holds, has changed since")


def test_a_recipe_is_the_same_where_its_files_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = "languages.de.dictionaries=[{path: $PREALIGN_TEST/en-de.txt}]"
    given = ["data.dir=$PREALIGN_TEST/data", "languages.de.text.files=[$PREALIGN_TEST/*.txt]", texts]
    given += ["evaluation.parallel={de: $PREALIGN_TEST/de.tsv}", "run_dir=$PREALIGN_TEST/run"]
    monkeypatch.setenv("PREALIGN_TEST", "/scratch/of/the/cards")
    values = row(["batch.micro_batch_size=8", *given], BOTH, 8)
    values["recipe"] = recipe_digest(load_recipe("real_1p3b", values["overrides"]))
    monkeypatch.setenv("PREALIGN_TEST", "/home/of/a/laptop")
    assert len(read(tmp_path, [values]).points) == 1
    values["overrides"] += ["model.layers=12"]
    assert read(tmp_path, [values]).points == ()


@pytest.mark.parametrize(
    ("device", "found", "message"),
    [
        (
            "h100",
            "AMD EPYC (CPU)",
            r"of 'AMD EPYC \(CPU\)'; expected a record of H100 .*; there are no plans for a CPU",
        ),
        (
            "h100",
            "NVIDIA H100 PCIe",
            "is of 'NVIDIA H100 PCIe'; expected a record of H100 with 80 GB, or another --dev",
        ),
        ("h20", "NVIDIA H200", "is of 'NVIDIA H200'; expected a record of H20 with 96 GB"),
        ("a100", "NVIDIA A100-SXM4-40GB", "expected a record of A100 with 80 GB"),
    ],
)
def test_sweeps_of_other_devices(device: str, found: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, [row(["batch.micro_batch_size=8"], BOTH, 8, device=found)], device)


HUGE = 10**400
WRONG_NUMBERS: list[Any] = ["fast", [1], {}, True, HUGE, -1, float("inf"), float("nan")]


def refused(path: Path, values: dict[str, Any], key: str) -> None:
    """In one line that names file, row and key."""
    good = row(["batch.micro_batch_size=8"], BOTH, 8)
    with pytest.raises(UserError) as error:
        read(path, [good, values | {"overrides": values.get("overrides", [])}])
    message = str(error.value)
    assert message.startswith(f"--measured: {path / 'sweep.jsonl'}, row 2: {key}: found ")
    assert "; expected " in message
    assert message.isprintable()
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("recipe", "command", "outcome") for value in ([], {}, ["x"], {"a": [1]}, 1, None)],
        *[("overrides", value) for value in (None, "a=1", {}, [1], [["a=1"]], ["a=\x1b[31m"], ["a=\ud800"])],
        *[("record", value) for value in (None, [], "x", 1)],
        ("command", "python"),
        ("command", "benchmark.py"),
        ("command", "benchmark.py --config"),
        ("command", "benchmark.py --config real_1p3b --accumulation"),
        ("command", f"{command()} --stage"[: len(command()) - 2]),
        ("command", command("--bogus")),
        ("command", command().replace("real_1p3b", "\x1b[31m")),
        *[
            ("command", command().replace("accumulation 4", f"accumulation {n}"))
            for n in ("-3", "x", "1e3", "9" * 5000)
        ],
    ],
)
def test_rows_with_other_values(key: str, value: Any, tmp_path: Path) -> None:
    refused(tmp_path, row(["batch.micro_batch_size=16"], BOTH, 16) | {key: value}, key)


@pytest.mark.parametrize("key", ["ranks", "micro_batch_size", "global_batch_size"])
@pytest.mark.parametrize("value", [*WRONG_NUMBERS, None, 0, 1.5, 1e308])
def test_sizes_that_are_none(key: str, value: Any, tmp_path: Path) -> None:
    values = row(["batch.micro_batch_size=16"], BOTH, 16)
    refused(tmp_path, values | {"record": values["record"] | {key: value}}, f"record.{key}")


@pytest.mark.parametrize("key", ["seconds_per_step", "peak_memory_gb", "words_per_step", "mfu"])
@pytest.mark.parametrize("value", [*WRONG_NUMBERS, 1e308])
def test_figures_that_are_none(key: str, value: Any, tmp_path: Path) -> None:
    found = BOTH | {"pretrain": BOTH["pretrain"] | {key: value}}
    refused(tmp_path, row(["batch.micro_batch_size=16"], found, 16), f"record.stages.pretrain.{key}")


def test_a_stage_that_its_record_lacks(tmp_path: Path) -> None:
    refused(tmp_path, row(["batch.micro_batch_size=16"], {"align": BOTH["align"]}, 16), "record.stages.pretrain")


def test_a_point_that_makes_no_recipe(tmp_path: Path) -> None:
    values = row(["batch.micro_batch_size=8"], "failed: batch: found 8", 8) | {"recipe": None}
    assert read(tmp_path, [values]).left_out == ("nothing of it was measured",)


def test_an_mfu_that_nobody_knows(tmp_path: Path) -> None:
    found = {name: values | {"mfu": None} for name, values in BOTH.items()}
    (point,) = read(tmp_path, [row(["batch.micro_batch_size=8"], found, 8)]).points
    assert point.stages[0].mfu is None


def test_points_of_several_files_count_once(tmp_path: Path) -> None:
    rows = [row(["batch.micro_batch_size=8"], BOTH, 8), row(["batch.micro_batch_size=32"], OOM, 32)]
    again = {"align": stage(1.6, 16_384), "pretrain": stage(1.3)}
    sweeps = [read(tmp_path, rows), read(tmp_path, rows), read(tmp_path, [row(rows[0]["overrides"], again, 8)])]
    points = points_of(sweeps)
    assert [point.stages[0].seconds for point in points] == [1.5, 1.6, None]


def test_a_file_with_a_mark_of_its_order_of_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "sweep.jsonl", [row(["batch.micro_batch_size=8"], BOTH, 8)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert is_sweep(path)
    assert len(read_sweep(path, data_sheet("h100"), 2.5).points) == 1


def test_lines_that_are_cut_or_too_deep_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "sweep.jsonl", [row(["batch.micro_batch_size=8"], BOTH, 8)])
    whole = path.read_text()
    path.write_text(whole[40:] + "[" * 200_000 + "\n" + whole + whole[:40])
    assert len(read_sweep(path, data_sheet("h100"), 2.5).points) == 1


def test_a_sweep_of_which_nothing_was_measured(tmp_path: Path) -> None:
    assert read(tmp_path, [row(["batch.micro_batch_size=8"], "stopped after 300 s", 8)]).left_out == (
        "nothing of it was measured",
    )


def test_what_is_no_sweep(tmp_path: Path) -> None:
    for name, content in {"a": json.dumps({"device": "x"}), "b": "words", "c": ""}.items():
        (tmp_path / name).write_text(content)
        assert not is_sweep(tmp_path / name)
    assert not is_sweep(tmp_path / "none")
