"""Kill runs at random moments, start them again by the same command, and compare them with a run that nobody disturbed.

    python -m tests.training.fault_runs --kills 200 --seed 1
    python -m tests.training.fault_runs --kills 50 --seed 1 --kinds term

Kinds: ``one`` (kill -9 of one rank; the others must end by themselves in 30 seconds), ``all`` (kill -9 of all),
``save`` (of all, while a checkpoint is written), ``prepare`` (kill -9 of ``launchers/prepare.py``), ``term`` (SIGTERM,
SIGUSR1 or SIGINT to one rank: all must leave a whole checkpoint and exit with 75). Every run is disturbed ``--per-run``
times and then left to finish; its losses must be those of the undisturbed run, bit for bit. Prints a line for every
kill, and the figures; exit code 1 if anything is not as it must be.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prealign.config import Recipe, dump_recipe
from prealign.data.prepared import open_data
from prealign.distributed.manifest import damage, read_manifest
from tests.conftest import tiny_recipe
from tests.processes import finish, start, train, train_arguments

KINDS = ("one", "all", "save", "prepare", "term")
RANKS = 2
OTHERS_END_WITHIN = 30.0


@dataclass
class Outcome:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    """Disturbances that met a running run, by kind."""
    faults: list[str] = field(default_factory=list)
    """What was not as it must be."""
    seconds_to_end: list[float] = field(default_factory=list)
    """From the kill of one rank to the end of the others."""
    runs: int = 0


def recipe_of(data_dir: Path, zero_stage: int) -> Recipe:
    english = tiny_recipe(data_dir).languages["en"].model_dump()
    return tiny_recipe(
        data_dir,
        languages={
            "en": english | {"tokens": 60_416},
            "clone": {"tokens": 10_240, "clone_of": "en", "clone_share": 0.2},
        },
        align={"fraction": 0.25, "words_per_step": 45},
        parallel={"precision": "fp32", "zero_stage": zero_stage},
        checkpoint={"every": 5, "keep": 2},
        watchdog={"timeout": 120.0},  # a run that hangs ends, with its stacks, and is counted as a fault
        evaluation={"every": 9, "tokens": 2000, "probe_words": 50},
    )


def disturb(kills: int, seed: int, kinds: list[str], per_run: int, work: Path) -> Outcome:
    """Disturb as many runs as it takes for ``kills`` disturbances."""
    outcome, chance = Outcome(), random.Random(seed)
    recipe = recipe_of(work / "data", 1)
    prepared_in = _timed(lambda: finish(start(_preparation(work / "undisturbed.yaml", recipe))))
    expected = train(recipe, work / "undisturbed", RANKS)
    while sum(outcome.kills.values()) < kills:
        left = min(per_run, kills - sum(outcome.kills.values()))
        chosen = [chance.choice(kinds) for _ in range(left)]
        folder = work / f"run-{outcome.runs}"
        for kind in chosen:
            if kind == "prepare":
                _kill_preparation(work / f"data-{outcome.runs}", recipe, prepared_in, chance, outcome)
            else:
                _kill_training(kind, recipe, folder, len(expected), chance, outcome)
        if any(kind != "prepare" for kind in chosen):
            if train(recipe, folder, RANKS) != expected:
                outcome.faults.append(f"{folder}: its losses are not those of the undisturbed run")
            outcome.runs += 1
            print(f"run {outcome.runs}: finished after {chosen}; faults so far: {len(outcome.faults)}", flush=True)
    return outcome


def _kill_training(kind: str, recipe: Recipe, folder: Path, rows: int, chance: random.Random, outcome: Outcome) -> None:
    before = _latest_step(folder)
    processes = start(train_arguments(recipe, folder), RANKS)
    have = _rows(folder)
    wanted = chance.randint(have, max(have, min(rows - 2, have + rows // 3)))
    while _running(processes) and not (_rows(folder) > wanted and (kind != "save" or _saving(folder))):
        time.sleep(0.001)
    time.sleep(chance.random() * 0.04)
    if not _running(processes):
        _, _, error = finish(processes)
        if any(process.returncode for process in processes):
            outcome.faults.append(f"{folder}: ended by itself, undisturbed: {error[-2000:]}")
        print(f"{kind}: the run had ended before it could be disturbed", flush=True)
        return
    outcome.kills[kind] += 1
    victim = chance.randrange(RANKS)
    number = chance.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)) if kind == "term" else signal.SIGKILL
    for rank, process in enumerate(processes):
        if kind in ("all", "save") or rank == victim:
            process.send_signal(number)
    seconds = _timed(lambda: finish(processes))
    step = _latest_step(folder)
    if step < before:
        outcome.faults.append(f"{folder}: checkpoint of step {before[1]} before, of step {step[1]} after a kill")
    codes = [process.returncode for process in processes]
    if kind == "one":
        outcome.seconds_to_end.append(seconds)
        if seconds > OTHERS_END_WITHIN:
            outcome.faults.append(f"{folder}: the other ranks took {seconds:.0f} s to end")
    if kind == "term" and codes != [75] * RANKS and codes != [0] * RANKS:
        outcome.faults.append(f"{folder}: exit codes {codes} after {signal.Signals(number).name}")
    if kind == "term" and codes == [75] * RANKS and _rows(folder) and step == before:
        outcome.faults.append(f"{folder}: no newer checkpoint after {signal.Signals(number).name}")
    print(
        f"{kind}: rank {victim}, after {_rows(folder)} rows, {seconds:.1f} s to end, codes {codes}, at {step}",
        flush=True,
    )


def _kill_preparation(data: Path, recipe: Recipe, seconds: float, chance: random.Random, outcome: Outcome) -> None:
    other = tiny_recipe(data, languages=recipe.model_dump(mode="json")["languages"])
    arguments = _preparation(data.with_suffix(".yaml"), other)
    process = start(arguments)[0]
    time.sleep(chance.random() * seconds)
    outcome.kills["prepare"] += process.poll() is None
    process.kill()
    process.communicate()
    finish(start(arguments))
    if open_data(other).fingerprint != open_data(recipe).fingerprint:
        outcome.faults.append(f"{data}: prepared data differ after a kill")


def _preparation(path: Path, recipe: Recipe) -> list[str]:
    path.write_text(dump_recipe(recipe))
    return ["launchers/prepare.py", "--config", str(path)]


def _running(processes: list[subprocess.Popen[str]]) -> bool:
    return all(process.poll() is None for process in processes)


def _saving(folder: Path) -> bool:
    return any(folder.glob("*/checkpoints/.step-*.partial"))


def _rows(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def _latest_step(folder: Path) -> tuple[int, int]:
    """Stage number and step of the newest checkpoint, which must be whole."""
    for number, stage in ((1, "pretrain"), (0, "align")):
        latest = folder / stage / "checkpoints" / "latest"
        if latest.is_file():
            checkpoint = latest.parent / latest.read_text().strip()
            manifest, wrong = read_manifest(checkpoint)
            assert wrong is None, wrong
            assert damage(checkpoint, manifest["files"]) == []
            return number, manifest["step"]
    return 0, -1


def _timed(call: Any) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs and compare them with an undisturbed one.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--per-run", type=int, default=5, help="disturbances of one run before it is left to finish")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        outcome = disturb(arguments.kills, arguments.seed, arguments.kinds, arguments.per_run, Path(work))
    print(f"disturbed {sum(outcome.kills.values())} times ({dict(outcome.kills)}) in {outcome.runs} runs")
    if outcome.seconds_to_end:
        print(f"after one rank was killed, the others ended within {max(outcome.seconds_to_end):.1f} s")
    print(f"{len(outcome.faults)} faults in {time.monotonic() - began:.0f} s")
    for fault in outcome.faults:
        print(f"fault: {fault}")
    sys.exit(bool(outcome.faults))


if __name__ == "__main__":
    main()
