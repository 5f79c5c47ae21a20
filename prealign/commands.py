"""The launchers as commands of an installed package; under ``deepspeed`` and ``torchrun`` they are started by module,
``deepspeed --module prealign.launchers.pretrain --config ...``."""

from importlib import import_module

from prealign.errors import run


def prepare() -> None:
    """``prealign-prepare``."""
    _run("prepare")


def pretrain() -> None:
    """``prealign-train``."""
    _run("pretrain")


def evaluate() -> None:
    """``prealign-evaluate``."""
    _run("evaluate")


def compare() -> None:
    """``prealign-compare``."""
    _run("compare")


def reproduce() -> None:
    """``prealign-reproduce``."""
    _run("reproduce")


def translate() -> None:
    """``prealign-translate``."""
    _run("translate")


def benchmark() -> None:
    """``prealign-benchmark``."""
    _run("benchmark")


def check_cluster() -> None:
    """``prealign-check-cluster``."""
    _run("check_cluster")


def _run(launcher: str) -> None:
    run(import_module(f"prealign.launchers.{launcher}").main)
