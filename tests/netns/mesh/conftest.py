"""A mesh per module: agents start once, tests of a module share it and tidy up after themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import NO_ROOT
from tests.netns.mesh.world import Mesh, running_mesh


@pytest.fixture(scope="module")
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """The standard mesh."""
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with running_mesh(request.module.__name__.rpartition("test_")[2]) as made:
        yield made
