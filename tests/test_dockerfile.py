"""The Dockerfile as far as it can be checked without docker: instructions, copied paths, versions, user, commands."""

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) in order, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments() -> dict[str, str]:
    return dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if line[0] != "#"}


def test_instructions_are_docker_s() -> None:
    assert {name for name, _ in instructions()} == KNOWN
    assert instructions()[0][0] == "FROM"
    assert json.loads(instructions()[-1][1])


@pytest.mark.parametrize("command", [rest for name, rest in instructions() if name == "RUN"])
def test_commands_are_shell(command: str) -> None:
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_the_base_is_pinned_and_its_cuda_is_torch_s() -> None:
    ((_, image),) = [(name, rest) for name, rest in instructions() if name == "FROM"]
    major, minor = re.fullmatch(r"nvidia/cuda:(\d+)\.(\d+)\.\d+-devel-ubuntu24\.04", image).groups()
    assert arguments()["TORCH_INDEX"].endswith(f"/cu{major}{minor}")


def test_what_is_copied_is_there_and_not_left_out() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for name, rest in instructions():
        if name != "COPY":
            continue
        *sources, _ = shlex.split(rest)
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, source
            assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored if pattern[0] not in "!*"), source


def test_versions_are_the_project_s() -> None:
    torch = arguments()["TORCH"]
    assert f"install torch=={torch}" in (ROOT / "launchers/install.sh").read_text()
    pinned = pins("launchers/requirements.txt") | {"torch": torch}
    needed = [Requirement(each) for each in PROJECT["dependencies"]]
    assert {canonicalize_name(each.name) for each in needed} == set(pinned)
    for each in needed:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each
    (flash,) = [Requirement(each) for each in PROJECT["optional-dependencies"]["gpu"]]
    assert flash.specifier.contains(arguments()["FLASH_ATTN"])


def test_the_extra_dev_is_what_the_tests_pin() -> None:
    pinned = pins("tests/requirements.txt")
    dev = [Requirement(each) for each in PROJECT["optional-dependencies"]["dev"]]
    assert {canonicalize_name(each.name) for each in dev} == set(pinned)
    for each in dev:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_it_runs_as_a_user_who_is_not_root() -> None:
    names = [name for name, _ in instructions()]
    ((_, user),) = [(name, rest) for name, rest in instructions() if name == "USER"]
    assert user != "root"
    assert any(name == "RUN" and f"useradd --home-dir /home/{user}" in rest for name, rest in instructions())
    assert "RUN" not in names[names.index("USER") :]


def test_its_command_is_one_of_the_wheel_s() -> None:
    assert json.loads(instructions()[-1][1])[0] in PROJECT["scripts"]
    assert (ROOT / "launchers" / "pretrain.py").is_file()
    assert "deepspeed --module prealign.launchers.pretrain" in DOCKERFILE


def test_that_it_was_not_built_is_said() -> None:
    assert "NOT BUILT WHERE IT WAS WRITTEN" in DOCKERFILE
    assert "has not been built" in (ROOT / "README.md").read_text(encoding="utf-8")
