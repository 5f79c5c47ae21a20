"""What `launchers/check_cluster.py` looks at on every process's machine."""

import os
import platform
import shutil
import socket
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from prealign import __version__
from prealign.distributed.world import World
from prealign.errors import UserError

_PACKAGES = ("torch", "deepspeed", "triton", "flash-attn", "liger-kernel", "numpy", "tiktoken", "safetensors")
_WARM_UP, _REPEATS = 2, 5
_EXCHANGES = 10


def check_machines(
    world: World, shared: Path, need_gb: float, megabytes: int, min_bandwidth: float, max_clock_offset: float
) -> None:
    """Print what was found, and raise `UserError` where a machine differs; all ranks call it.

    ``shared``: a folder that all machines must see, with ``need_gb`` free. ``megabytes``: size of the all-reduce that
    is timed, of which ``min_bandwidth`` GB/s are expected. ``max_clock_offset``: seconds that clocks may differ by.
    """
    facts = _gathered(_facts(world), world)
    seconds = _gathered({"clock offset": _clock_offset(world)}, world)
    bandwidth = all_reduce_bandwidth(world, megabytes * 2**20)
    alone = _gathered({"slowness": _matmul_seconds(world)}, world)
    folders = _gathered(_shared_folder(shared, world), world)
    problems = [
        *differing(facts),
        *(_slow(alone) if world.device.type == "cuda" else ()),  # processors have other work too
        *_bad_clocks(facts, seconds, max_clock_offset),
        *_bad_folders(facts, folders, shared, need_gb),
    ]
    if bandwidth is not None and bandwidth < min_bandwidth:
        problems.append(f"all-reduce: {bandwidth:.2f} GB/s; expected {min_bandwidth:.2f} or more")
    if world.is_first:
        _show(facts, seconds, bandwidth, megabytes, folders)
        for problem in problems[:-1]:
            print(f"problem: {problem}", flush=True)
    if problems:
        raise UserError(f"{problems[-1]} ({len(problems)} problems in all)")


def differing(facts: list[dict[str, Any]]) -> list[str]:
    """One line for each fact in which a rank differs from most others; ranks of one machine are named together."""
    lines = []
    for key in facts[0]:
        if key in ("host", "rank"):
            continue
        values = [fact[key] for fact in facts]
        usual, count = Counter(values).most_common(1)[0]
        odd: dict[tuple[str, Any], list[int]] = {}
        for fact in facts:
            if fact[key] != usual:
                odd.setdefault((fact["host"], fact[key]), []).append(fact["rank"])
        for (host, value), ranks in odd.items():
            lines.append(f"{host} (ranks {_listed(ranks)}): found {key} {value}; {count} of {len(facts)} have {usual}")
    return lines


def all_reduce_bandwidth(world: World, size: int) -> float | None:
    """Bus bandwidth in GB/s of an all-reduce of ``size`` bytes: bytes/s x 2 (n - 1) / n, which does not depend on the
    number of ranks where links are alike. None for one rank."""
    if world.world_size == 1:
        return None
    tensor = torch.ones(size // 4, device=world.device)
    for repeat in range(_WARM_UP + _REPEATS):
        if repeat == _WARM_UP:
            _wait_for(world)
            began = time.perf_counter()
        dist.all_reduce(tensor)
        tensor.fill_(1.0)
    _wait_for(world)
    seconds = (time.perf_counter() - began) / _REPEATS
    return size / seconds * 2 * (world.world_size - 1) / world.world_size / 1e9


def _wait_for(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    world.barrier()


def _facts(world: World) -> dict[str, Any]:
    """What should be the same everywhere."""
    facts: dict[str, Any] = {"rank": world.rank, "host": socket.gethostname()}
    facts |= {"prealign": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "none"
    on_gpu = world.device.type == "cuda"
    facts["device"] = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} processor"
    facts["devices"] = torch.cuda.device_count() if on_gpu else 0
    facts["device memory"] = f"{torch.cuda.mem_get_info()[1] / 1e9:.0f} GB" if on_gpu else "none"
    facts["cuda"] = torch.version.cuda or "none"
    facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "none"
    facts["working folder"] = str(Path.cwd())
    return facts


def _clock_offset(world: World) -> float:
    """Seconds that this rank's clock is ahead of the first rank's, from the quickest of several exchanges; all ranks
    call it."""
    best = (float("inf"), 0.0)
    for _ in range(_EXCHANGES):
        world.barrier()
        before = time.time()
        theirs = world.first(time.time())
        after = time.time()
        # the first rank read its clock before it sent, so between this rank's two readings or just before them
        best = min(best, (after - before, (before + after) / 2 - theirs))
    return best[1]


def _matmul_seconds(world: World) -> float:
    """Time of a fixed piece of work: tells a throttled device from the others."""
    size = 4096 if world.device.type == "cuda" else 512
    matrix = torch.randn(size, size, device=world.device)
    times = []
    for _ in range(_WARM_UP + 3 * _REPEATS):
        began = time.perf_counter()
        matrix = torch.nn.functional.normalize(matrix @ matrix)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[_WARM_UP:])


def _shared_folder(folder: Path, world: World) -> dict[str, Any]:
    """Write a file on each rank and look for those of all others."""
    found: dict[str, Any] = {"error": "", "unseen": [], "free": 0.0}
    names = world.first(f".check-{os.getpid()}-{time.time_ns()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{names}-{world.rank}").write_text(socket.gethostname(), encoding="utf-8")
    except OSError as error:
        found["error"] = error.strerror or str(error)
    world.barrier()
    deadline = time.monotonic() + 5.0  # network file systems may show a new file late
    unseen = list(range(world.world_size))
    while unseen and not found["error"]:
        unseen = [rank for rank in unseen if not (folder / f"{names}-{rank}").is_file()]
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    found["unseen"] = [] if found["error"] else unseen
    if folder.is_dir():
        found["free"] = shutil.disk_usage(folder).free / 1e9
    world.barrier()
    if not found["error"]:
        (folder / f"{names}-{world.rank}").unlink(missing_ok=True)
    return found


def _bad_folders(facts: list[dict[str, Any]], folders: list[dict[str, Any]], folder: Path, need: float) -> list[str]:
    lines = []
    refused = {rank for rank, found in enumerate(folders) if found["error"]}
    for fact, found in zip(facts, folders):
        where = f"{fact['host']} (rank {fact['rank']})"
        missing = [rank for rank in found["unseen"] if rank not in refused]
        if found["error"]:
            lines.append(f"{where}: cannot write in {folder} ({found['error']}); mend its rights or choose another")
        elif missing:
            hosts = sorted({facts[rank]["host"] for rank in missing})
            lines.append(
                f"{where}: does not see in {folder} what ranks {_listed(missing)} on {', '.join(hosts)} wrote; "
                "expected one folder that all machines share"
            )
        elif found["free"] < need:
            lines.append(f"{where}: found {found['free']:.1f} GB free in {folder}; expected {need:.1f} GB")
    return lines


def _bad_clocks(facts: list[dict[str, Any]], seconds: list[dict[str, Any]], limit: float) -> list[str]:
    return [
        f"{fact['host']} (rank {fact['rank']}): its clock differs by {offset['clock offset']:+.2f} s from that of "
        f"{facts[0]['host']}; expected at most {limit:.2f} s; set it (chrony, ntp)"
        for fact, offset in zip(facts, seconds)
        if abs(offset["clock offset"]) > limit
    ]


def _slow(alone: list[dict[str, Any]]) -> list[str]:
    """Devices that take more than twice the median time for the same work."""
    median = sorted(entry["slowness"] for entry in alone)[(len(alone) - 1) // 2]
    return [
        f"{entry['host']} (rank {entry['rank']}): takes {entry['slowness'] / median:.1f} times the usual time for the "
        "same matrix product; look for another process or throttling"
        for entry in alone
        if entry["slowness"] > 2 * median
    ]


def _gathered(mine: dict[str, Any], world: World) -> list[dict[str, Any]]:
    mine = {"rank": world.rank, "host": socket.gethostname()} | mine
    everyone: list[Any] = [None] * world.world_size
    dist.all_gather_object(everyone, mine, group=world.control)
    return everyone


def _show(
    facts: list[dict[str, Any]],
    seconds: list[dict[str, Any]],
    bandwidth: float | None,
    megabytes: int,
    folders: list[dict[str, Any]],
) -> None:
    hosts = Counter(fact["host"] for fact in facts)
    print(f"ranks: {len(facts)} on {', '.join(f'{host} ({count})' for host, count in hosts.items())}")
    for key, value in facts[0].items():
        if key not in ("rank", "host"):
            print(f"{key}: {value}")
    shown = "N/A (one rank)" if bandwidth is None else f"{bandwidth:.2f} GB/s bus bandwidth, {megabytes} MiB"
    print(f"all-reduce: {shown}")
    print(f"clocks: within {max(abs(entry['clock offset']) for entry in seconds) * 1000:.1f} ms of the first rank's")
    print(f"room in the shared folder: {min(entry['free'] for entry in folders):.1f} GB", flush=True)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
