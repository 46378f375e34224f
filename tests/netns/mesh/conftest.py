"""A mesh for all modules that leave it as it was, and one of its own for each of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import NO_ROOT
from tests.netns.mesh.world import Mesh, running_mesh

SHARING = frozenset(
    ("addresses", "cli", "clients", "original_destination", "policy", "revocation", "streams")
)
"""Modules that take back what they change; pods they add stay."""


@pytest.fixture(scope="package")
def shared_mesh() -> Iterator[Mesh]:
    """The standard mesh, started once."""
    with running_mesh("shared") as made:
        yield made


@pytest.fixture(scope="module")
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """The standard mesh."""
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    purpose = request.module.__name__.rpartition("test_")[2]
    if purpose in SHARING:
        shared: Mesh = request.getfixturevalue("shared_mesh")
        shared.lab.settle()
        shared.forget_records()
        yield shared
        return
    with running_mesh(purpose) as made:
        yield made
