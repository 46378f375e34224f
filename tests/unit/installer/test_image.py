"""The image cannot be built without an engine; what its recipe relies on can be checked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import installer
from installer.agent import CNI_BIN

ROOT = Path(installer.__file__).parents[1]
RECIPE = (ROOT / "Dockerfile").read_text()


def copied() -> list[str]:
    """Everything that comes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", RECIPE, re.MULTILINE)
    return [name for line in lines for name in line.split()[:-1]]


def allowed() -> set[str]:
    text = (ROOT / ".dockerignore").read_text()
    return {line[1:] for line in text.splitlines() if line.startswith("!")}


def test_everything_that_is_copied_is_there_and_let_in() -> None:
    for name in copied():
        assert (ROOT / name).exists(), name
    assert set(copied()) == allowed()


def test_every_room_that_is_packaged_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {
        one.rstrip("*") for one in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert rooms <= set(copied())
    assert project["project"]["scripts"] == {"meshnode": "agent.cli.main:main"}
    assert 'ENTRYPOINT ["meshnode"]' in RECIPE
    for name in project["project"]["license-files"]:
        assert name.partition("/")[0] in copied()


def test_the_plugin_is_where_the_agent_looks() -> None:
    assert "python -m agent.cni.build /opt/meshnode/bin/meshnode-cni" in RECIPE
    assert not CNI_BIN.startswith("/opt")


def test_no_continued_line_is_broken() -> None:
    lines = [line for line in RECIPE.splitlines() if not line.lstrip().startswith("#")]
    known = ("FROM ", "RUN ", "COPY ", "WORKDIR ", "ENV ", "ENTRYPOINT ", "CMD ")
    for before, line in zip(["", *lines], lines, strict=False):
        is_continued = before.endswith("\\")
        assert is_continued or not line or line.startswith(known), line


@pytest.mark.slow
def test_what_is_copied_makes_a_complete_package(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_nghttp2.c", "_native.c")
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=skip)
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True, timeout=600)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "agent/cni/plugin/meshnode-cni.c",
        "agent/holder/__main__.py",
        "agent/ztunnel/__main__.py",
        "bpf/layout.h",
        "installer/agent.py",
        "waypoint/__main__.py",
    ):
        assert name in names, name
    assert any(name.startswith("mesh/http2/_nghttp2") and name.endswith(".so") for name in names)
    assert any(name.startswith("mesh/tunnel/native/_native") for name in names)
