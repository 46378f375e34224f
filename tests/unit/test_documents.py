"""The documents name what the code has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpf.layout import MAPS, PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = ("agent", "bench", "bpf", "controller", "installer", "mesh", "tests", "vagrant", "waypoint")


@pytest.mark.parametrize("name", [*(m.name for m in MAPS), *(p.name for p in PROGRAMS)])
def test_the_architecture_names_every_map_and_program(name: str) -> None:
    assert f"`{name}`" in ARCHITECTURE


@pytest.mark.parametrize("room", ROOMS)
def test_the_architecture_names_every_room_and_it_exists(room: str) -> None:
    assert f"`{room}/`" in ARCHITECTURE
    assert (ROOT / room).is_dir()


def test_links_between_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for part in document.read_text().split("](")[1:]:
            target = part.split(")")[0]
            assert "://" in target or (document.parent / target).exists(), (document, target)


@pytest.mark.parametrize("script", [".ci/run", "scripts/sanitize", "scripts/setup"])
def test_scripts_that_are_run_by_path_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
