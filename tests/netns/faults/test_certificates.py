"""Certificates that are renewed, run out, change their root: under traffic, by real agents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from mesh.identity.roots import RootStage
from tests.conftest import NO_ROOT
from tests.lab import Lab, Node, eventually
from tests.netns.faults.authority import Authority
from tests.netns.faults.world import World, agent_of, frozen

pytestmark = pytest.mark.root

LIFETIME_S = 8.0


@pytest.fixture(scope="module")
def authority_and_world() -> Iterator[tuple[Authority, World]]:
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    with Lab("certificates") as lab:
        world = World(lab)
        authority = Authority(lab, world.a, leaf_lifetime_s=LIFETIME_S)
        authority.start()
        try:
            for node in (world.a, world.b):
                authority.join(node)
            world.check_served()
            yield authority, world
        finally:
            authority.stop()


@pytest.fixture
def authority(authority_and_world: tuple[Authority, World]) -> Authority:
    return authority_and_world[0]


@pytest.fixture
def world(authority_and_world: tuple[Authority, World]) -> World:
    return authority_and_world[1]


def serials(node: Node) -> set[str]:
    status = agent_of(node).status()
    assert status is not None
    return {certificate.serial for certificate in status.certificates}


def test_renewal_under_traffic_refuses_nothing(world: World) -> None:
    before = serials(world.a), serials(world.b)
    held = world.hold(world.far.address4)
    with world.churn(world.far.address4) as out:
        began = time.monotonic()
        eventually(
            lambda: not before[0] & serials(world.a) and not before[1] & serials(world.b),
            LIFETIME_S,
            "all certificates are renewed",
        )
        # Tunnels made with the first ones must be replaced in the same time.
        eventually(lambda: time.monotonic() > began + LIFETIME_S, 2 * LIFETIME_S)
    out[0].check_all_served()
    assert held.result().end == "alive"


def test_root_rotation_under_traffic_refuses_nothing(authority: Authority, world: World) -> None:
    with world.churn(world.far.address4) as out:
        authority.rotate()
        eventually(
            lambda: authority.stages() == [RootStage.ACTIVE],
            3 * LIFETIME_S,
            "the old root is retired",
        )
    out[0].check_all_served()


def flags(node: Node) -> list[object]:
    return [record["flag"] for record in agent_of(node).access_log()]


def test_without_an_authority_past_expiry_nothing_passes(
    authority: Authority, world: World
) -> None:
    known = len(flags(world.a))
    authority.stop()
    try:
        # Until they run out, the last certificates serve.
        assert world.ask(world.far.address4).end == "ok"

        def attack(secret: str) -> None:
            def refused() -> bool:
                asked = world.ask(world.far.address4, secret)
                assert asked.end == "ok" or asked.failed_fast, asked
                return asked.end != "ok"

            eventually(refused, 3 * LIFETIME_S, "connections are refused")
            again = world.ask(world.far.address4, secret)
            assert again.failed_fast, again

        world.check_never_plain(attack)
        eventually(lambda: "IDENTITY_ERROR" in flags(world.a)[known:], 5.0)
        assert world.ask(world.near.address4).end == "ok"  # the kernel's own identity
    finally:
        authority.start()
    eventually(lambda: world.ask(world.far.address4).end == "ok", 40.0, "it recovers")


def test_expiry_is_obeyed_without_the_node_processes(world: World) -> None:
    assert world.ask(world.far.address4).end == "ok"
    with frozen(agent_of(world.a).pid, agent_of(world.b).pid):

        def attack(secret: str) -> None:
            def refused() -> bool:
                asked = world.ask(world.far.address4, secret)
                assert asked.end == "ok" or asked.failed_fast, asked
                return asked.end != "ok"

            eventually(refused, 3 * LIFETIME_S, "connections are refused")

        world.check_never_plain(attack)
    eventually(lambda: world.ask(world.far.address4).end == "ok", 20.0, "it recovers")
