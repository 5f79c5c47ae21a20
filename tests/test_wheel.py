"""What is installed from a wheel works outside the checkout, also when the checkout has no symbolic links."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT

PACKAGED = ("prealign", "kernels", "launchers", "configs")


def run(arguments: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(arguments, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which ``prealign/kernels`` is what git makes of a link where there are none."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PACKAGED:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "prealign" / "kernels").unlink()
    (folder / "prealign" / "kernels").write_text("../kernels")
    return folder


@pytest.fixture(scope="module")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(checkout)], checkout)
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], checkout)
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("prealign/configs/results", "tests/"))]
    return folder / "site"


def test_kernels_are_in_the_wheel(site: Path, tmp_path: Path) -> None:
    script = (
        "import prealign.kernels, prealign.kernels.benchmarks as b, prealign.kernels.tiles as t; "
        "print(prealign.kernels.__file__, b.__file__, t.PATH)"
    )
    for path in map(Path, run([sys.executable, "-c", script], tmp_path, PYTHONPATH=str(site)).split()):
        assert path.is_relative_to(site)
        assert path.is_file()


def test_commands_find_recipes_and_sample_text(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: configs/enclone_demo.yaml\nname: mine\n")
    for recipe in ("configs/enclone_demo.yaml", "mine.yaml"):
        run([str(site / "bin" / "prealign-prepare"), "--config", recipe], tmp_path, PYTHONPATH=str(site))
        out = run([str(site / "bin" / "prealign-train"), "--config", recipe, "--check"], tmp_path, PYTHONPATH=str(site))
        assert out.endswith("all checks passed; nothing was trained\n")
    assert (tmp_path / "data" / "enclone_demo").is_dir()


def test_the_source_distribution_has_what_the_wheel_has(checkout: Path, site: Path, tmp_path: Path) -> None:
    script = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    run([sys.executable, "-c", script], checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed_files:
        packed = {name.partition("/")[2] for name in packed_files.getnames()}
    for folder in ("kernels", "launchers", "configs"):
        for path in (site / "prealign" / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{folder}/{path.relative_to(site / 'prealign' / folder)}" in packed
