"""What pip installs is whole, and leaves the choice of torch to whoever installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("workflows", "deployments")
EXACT = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Built from a copy, because a build leaves its traces beside the sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(built),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = built.iterdir()
    return ZipFile(path)


def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def pyproject() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for group in (project["dependencies"], *extras) for text in group]


def constraints() -> dict[str, Version]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = [EXACT.fullmatch(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches if match is not None}


@pytest.mark.ray
def test_wheel_contains_every_source_and_demo_artefact(wheel: ZipFile) -> None:
    sources = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {"workflows/py.typed", "deployments/py.typed", "workflows/demo/tiny_gpt/model.safetensors"} <= sources
    assert sources <= set(wheel.namelist())


@pytest.mark.ray
def test_wheel_contains_nothing_else(wheel: ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.ray
def test_metadata_names_the_distribution_and_pins_no_torch(wheel: ZipFile) -> None:
    about = metadata(wheel)
    required = [Requirement(text) for text in about.get_all("Requires-Dist", [])]

    assert about["Name"] == "infernet-serve"
    assert about["License-Expression"] == "Apache-2.0"
    assert {clause.operator for part in required if part.name == "torch" for clause in part.specifier} == {">="}


def test_only_lower_bounds_are_declared() -> None:
    assert [str(part) for part in pyproject() if {clause.operator for clause in part.specifier} - {">="}] == []


def test_every_line_of_the_constraints_is_one_exact_public_version() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if line and not line.startswith("#") and not EXACT.fullmatch(line)] == []


def test_every_requirement_has_a_fitting_constraint() -> None:
    pins = constraints()
    ours = [part for part in pyproject() if canonicalize_name(part.name) != "infernet-serve"]

    assert [str(p) for p in ours if not p.specifier.contains(pins.get(canonicalize_name(p.name), Version("0")))] == []
