"""Damage is found before anything is loaded, the newest whole checkpoint is taken, and writing never harms what is
there."""

import json
import logging
import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prealign.config.running import CheckpointConfig
from prealign.distributed import checkpoints as module
from prealign.distributed.checkpoints import Checkpoints
from prealign.distributed.piece_files import save_tensors
from prealign.distributed.weights import Weights, save_weights
from prealign.distributed.world import World
from prealign.errors import UserError
from tests.distributed.engines import Layout, checkpoints_of, engine_of, recipe_of, train, world_of
from tests.processes import on_ranks


class Alone(World):
    """One rank, without a process group."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gather(self, value: Any) -> list[Any]:
        return [value]


ALONE = Alone(0, 1, torch.device("cpu"))


def write_three(rank: int, ranks: int, folder: str) -> None:
    world, recipe = world_of(rank, ranks), recipe_of(Layout(1))
    engine, checkpoints = engine_of(recipe, world), checkpoints_of(Path(folder), recipe, world)
    for step in (1, 2, 3):
        train(engine, recipe, world, step - 1, step)
        checkpoints.save(engine, step, {"step": step})


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 1 to 3 of two ranks; read only."""
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    on_ranks(write_three, 2, str(folder))
    return folder


@pytest.fixture
def folder(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "checkpoints"))


def found_in(folder: Path) -> str | None:
    found = Checkpoints(folder, ALONE, CheckpointConfig()).find()
    return found.folder.name if found is not None else None


def test_what_is_on_disk(three: Path) -> None:
    assert (three / "latest").read_text() == "step-3"
    assert sorted(path.name for path in three.iterdir()) == ["latest", "step-1", "step-2", "step-3"]
    assert sorted(path.name for path in (three / "step-3").iterdir()) == [
        "manifest.json",
        "manifest.sha256",
        "rank-00000-000.safetensors",
        "rank-00001-000.safetensors",
    ]
    manifest = json.loads((three / "step-3" / "manifest.json").read_text())
    elements: dict[tuple[str, str], int] = {}
    for rank in (0, 1):
        for name, tensor in load_file(three / "step-3" / f"rank-{rank:05d}-000.safetensors").items():
            key, parameter, _ = name.split("|")
            elements[key, parameter] = elements.get((key, parameter), 0) + tensor.numel()
            assert tensor.dtype == torch.float32
    sizes = {name: int(torch.Size(shape).numel()) for name, shape in manifest["parameters"].items()}
    assert elements == {(key, name): n for key in ("weight", "exp_avg", "exp_avg_sq") for name, n in sizes.items()}
    assert found_in(three) == "step-3"


def test_tensor_files_are_flushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of final weights too: the manifest that says that they are whole must not outlive them."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    save_tensors({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert flushed == ["a.safetensors"]


def test_a_hundred_byte_flips_are_found(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    random.seed(5)
    files = sorted((folder / "step-3").iterdir())
    for number in range(100):
        path = files[number % len(files)]
        content = path.read_bytes()
        place = random.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :])
        caplog.clear()
        assert found_in(folder) == "step-2", (path.name, place)
        assert "DAMAGED CHECKPOINT" in caplog.text
        assert path.name in caplog.text
        path.write_bytes(content)
    assert found_in(folder) == "step-3"


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("place", range(6))
def test_a_flip_in_latest_is_told(folder: Path, caplog: pytest.LogCaptureFixture, place: int, bit: int) -> None:
    name = bytearray(b"step-3")
    name[place] ^= 1 << bit
    (folder / "latest").write_bytes(name)
    expected = "step-3" if bytes(name) not in (b"step-1", b"step-2") else name.decode()
    assert found_in(folder) == expected
    assert "expected the name of a checkpoint" in caplog.text or "newer steps there are not used" in caplog.text


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "rank-00001-000.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut", "longer", "empty"])
def test_missing_and_cut_files_are_found(folder: Path, caplog: pytest.LogCaptureFixture, name: str, harm: str) -> None:
    path = folder / "step-3" / name
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes({"cut": content[:-1], "longer": content + b"\0", "empty": b""}[harm])
    (folder / "step-2" / "rank-00000-000.safetensors").unlink()
    assert found_in(folder) == "step-1"
    assert name in caplog.text
    assert "rank-00000-000.safetensors is missing" in caplog.text


def test_none_whole_is_an_error_and_none_at_all_is_not(folder: Path) -> None:
    for step in (1, 2, 3):
        (folder / f"step-{step}" / "rank-00000-000.safetensors").unlink()
    with pytest.raises(UserError, match="no whole checkpoint among step-3, step-2, step-1"):
        found_in(folder)
    assert found_in(folder / "nowhere") is None


def test_latest_decides_and_without_it_the_newest(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "latest").write_text("step-2\n")
    assert found_in(folder) == "step-2"
    assert "newer steps there are not used: [3]" in caplog.text
    (folder / "step-2" / "manifest.json").unlink()
    assert found_in(folder) == "step-1", "a step past `latest` belongs to another course of the run"
    (folder / "latest").unlink()
    (folder / ".step-9.partial").mkdir()
    assert found_in(folder) == "step-3"


def write_ten(rank: int, ranks: int, folder: str) -> dict[str, Any]:
    """Retention, writing while training goes on, and writes that fail, in one process group."""
    logging.disable()
    world, base = world_of(rank, ranks), Path(folder)
    recipe = recipe_of(Layout(2), keep=2, keep_every=4)
    engine = engine_of(recipe, world)
    checkpoints = checkpoints_of(base / "kept", recipe, world)
    for step in range(1, 11):
        train(engine, recipe, world, step - 1, step)
        checkpoints.save(engine, step, {"step": step})
    seen = {"kept": sorted(path.name for path in (base / "kept").iterdir())}

    # asynchronous: what is saved is the state at the call, however late it is written
    recipe = recipe_of(Layout(2), asynchronous=True)
    checkpoints = checkpoints_of(base / "late", recipe, world)
    may_write = threading.Event()
    write_batches = module.write_batches
    module.write_batches = lambda *given: may_write.wait() and write_batches(*given)
    state = {"step": 10, "spent": {"en": 7}}
    checkpoints.save(engine, 10, state)
    checkpoints.poll()
    seen["while writing"] = (base / "late" / "latest").exists()
    after = train(engine, recipe, world, 10, 12)
    state["spent"]["en"] = 8  # as a run counts on
    may_write.set()
    checkpoints.wait()
    found = checkpoints.find()
    assert found is not None
    assert found.state == {"step": 10, "spent": {"en": 7}}
    checkpoints.load(engine, found)
    seen["late"] = train(engine, recipe, world, 10, 12) == after

    # the disk is full on one rank
    def full(*given: Any) -> Any:
        raise OSError(28, os.strerror(28))

    module.write_batches = full if rank == 1 else write_batches
    for settings in ({}, {"asynchronous": True}):
        recipe = recipe_of(Layout(2), **settings)
        checkpoints = checkpoints_of(base / "late", recipe, world)
        if settings:
            checkpoints.save(engine, 12, {"step": 12})
        with pytest.raises(UserError, match=r"step-12: could not be written on rank 1 .*No space left"):
            checkpoints.wait() if settings else checkpoints.save(engine, 12, {"step": 12})
    module.write_batches = write_batches
    world.barrier()
    seen["after failures"] = sorted(path.name for path in (base / "late").iterdir())
    world.barrier()
    checkpoints.save(engine, 12, {"step": 12})
    checkpoints.wait()
    seen["then"] = sorted(path.name for path in (base / "late").iterdir())

    # another model
    recipe = recipe_of(Layout(2, hidden_size=20))
    with pytest.raises(UserError, match=r"has shape \[.*18.*\]; the recipe's model has \[.*20.*\]"):
        checkpoints.load(engine_of(recipe, world), found)

    # weights without the optimizer are the fp32 ones, not what bf16 leaves of them
    recipe = recipe_of(Layout(0, "bf16"))
    engine = engine_of(recipe, world)
    train(engine, recipe, world, 0, 1)
    save_weights(engine, world, base / "weights", {})
    weights = Weights(base / "weights")
    for name, parameter in engine.module.named_parameters():
        value = weights.value(name, parameter.shape)
        assert torch.equal(value.bfloat16(), parameter)
        seen["more than bf16"] = seen.get("more than bf16", False) or not torch.equal(value, parameter.float())
    return seen


def test_keeping_writing_late_and_failing(tmp_path: Path) -> None:
    for seen in on_ranks(write_ten, 2, str(tmp_path)):
        assert seen["kept"] == ["latest", "step-10", "step-4", "step-8", "step-9"]
        assert seen["while writing"] is False
        assert seen["late"] is True
        assert seen["after failures"] == ["latest", "step-10"]
        assert seen["then"] == ["latest", "step-10", "step-12"]
        assert seen["more than bf16"] is True
