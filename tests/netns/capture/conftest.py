"""Fixtures: one world of namespaces per module, one loaded node per module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.netns.capture import world


@pytest.fixture(scope="module")
def prefix() -> str:
    """Short (interface and node names) and our own."""
    return f"cap{os.getpid() % 100000}"


@pytest.fixture(scope="module")
def pods(prefix: str) -> Iterator[list[world.PodNs]]:
    with world.namespaces(prefix, 3) as made:
        yield made


@pytest.fixture(scope="module")
def node(prefix: str) -> Iterator[world.Node]:
    with world.node(prefix) as made:
        yield made
