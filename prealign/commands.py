"""The launchers as commands of an installed package; under ``deepspeed`` and ``torchrun`` they are started by module,
``deepspeed --module prealign.launchers.pretrain --config ...``."""

from functools import partial
from importlib import import_module

from prealign.errors import run


def _run(launcher: str) -> None:
    run(import_module(f"prealign.launchers.{launcher}").main)


prepare = partial(_run, "prepare")
pretrain = partial(_run, "pretrain")
evaluate = partial(_run, "evaluate")
report = partial(_run, "report")
compare = partial(_run, "compare")
reproduce = partial(_run, "reproduce")
scaling = partial(_run, "scaling")
translate = partial(_run, "translate")
benchmark = partial(_run, "benchmark")
export = partial(_run, "export")
import_hf = partial(_run, "import_hf")
plan = partial(_run, "plan")
check_cluster = partial(_run, "check_cluster")
