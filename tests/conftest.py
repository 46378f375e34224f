"""Fixtures of every layer: a lab where there is root, and the check that nothing is left."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.lab.leaks import Session, find_leaks, take_inventory
from tests.lab.record import sweep
from tests.lab.topology import Lab

NO_ROOT = "needs root (namespaces, cgroups, BPF): run it with sudo"


# One example after the other on a busy machine: its time says nothing. The same examples in every
# run, so that a failure is of the change that is tested; `--hypothesis-profile=deep` looks further.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "deep", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs root when there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=NO_ROOT))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab, named after the test."""
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with Lab(request.node.name.removeprefix("test_")) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the session if BPF objects, namespaces, cgroups, processes or files outlive it."""
    privileged = any(item.get_closest_marker("root") for item in request.session.items)
    if os.geteuid() != 0 or not privileged:
        yield
        return
    sweep()
    session = Session.begin()
    try:
        was_alone = session.is_alone()
        before = take_inventory()
        yield
        leaks = find_leaks(before, session, was_alone)
    finally:
        session.end()
    assert not leaks, "the session left behind:\n  " + "\n  ".join(leaks)
