"""What training needs at run time, and what it does not."""

import importlib.util
import subprocess
import sys

import pytest

from tests.processes import ROOT

LIST = """
import importlib, pkgutil, sys
import {package} as package
for found in pkgutil.walk_packages(package.__path__, "{package}."):
    importlib.import_module(found.name)
print("\\n".join(sys.modules))
"""


def imported(package: str) -> set[str]:
    """Modules that are there when all of a package's modules are."""
    script = LIST.format(package=package)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_training_is_free_of_preparation() -> None:
    modules = imported("prealign.training")
    assert "prealign.data.prepared" in modules
    assert importlib.util.find_spec("prealign.preparation.pipeline") is not None
    assert importlib.util.find_spec("prealign.lexicon.dictionaries") is not None
    assert not [name for name in modules if name.startswith(("prealign.preparation", "prealign.lexicon.dictionaries"))]
    assert not modules & {"datasets", "tokenizers", "openai", "matplotlib"}


@pytest.mark.parametrize(
    "package",
    [f"prealign.{name}" for name in ("config", "text", "lexicon", "stores", "data", "facts", "preparation")],
)
def test_data_is_prepared_without_deepspeed(package: str) -> None:
    assert "deepspeed" not in imported(package)
