"""Certificates that are renewed, run out, change their root: under traffic, by real agents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Iterator

import pytest

from mesh.identity.roots import RootStage
from mesh.model.credentials import Credentials, TrustBundle
from tests.conftest import NO_ROOT
from tests.lab import Lab, Node, Pod, eventually
from tests.netns.faults.authority import ALIAS, Authority
from tests.netns.faults.hostile import CLIENT, LabCa, peer, status_of
from tests.netns.faults.world import PORT, World, agent_of, frozen
from tests.support.certs import spiffe

pytestmark = [pytest.mark.root, pytest.mark.slow]

LIFETIME_S = 8.0


@pytest.fixture(scope="module")
def outsider(authority_and_world: tuple[Authority, World]) -> Pod:
    """A pod that is not captured, and brings certificates of its own."""
    return authority_and_world[1].a.pod("outsider", namespace="outside")


def accepts(outsider: Pod, world: World, credentials: Credentials) -> bool:
    """Whether the ztunnel of `far` takes a peer with these credentials."""

    async def attempt() -> bool:
        try:
            async with asyncio.timeout(10.0), peer(outsider, world.far.address4, credentials):
                return True
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return False

    return asyncio.run(attempt())


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


def test_root_rotation_under_traffic_refuses_nothing(
    authority: Authority, world: World, outsider: Pod
) -> None:
    old = LabCa(authority.state_dir)

    def is_accepted(bundle: TrustBundle) -> bool:
        return accepts(outsider, world, old.issue(CLIENT, bundle=bundle))

    assert is_accepted(old.bundle())
    with world.churn(world.far.address4) as out:
        authority.rotate()
        eventually(
            lambda: authority.stages() == [RootStage.ACTIVE],
            3 * LIFETIME_S,
            "the old root is retired",
        )
        new = LabCa(authority.state_dir)
        # Whom the peer itself trusts is not what it is refused for.
        eventually(lambda: not is_accepted(old.bundle(new)), 30.0, "the old root is refused")
    out[0].check_all_served()


def test_live_tunnels_of_a_dropped_trust_domain_end(
    authority: Authority, world: World, outsider: Pod
) -> None:
    ca = LabCa(authority.state_dir)
    former = ca.issue(spiffe("client", namespace="default", trust_domain=ALIAS))
    ours = world.hold(world.far.address4)

    async def live() -> None:
        async with asyncio.timeout(20.0), peer(outsider, world.far.address4, former) as raw:
            assert await status_of(raw, 1, f"{world.far.address4}:{PORT}") == "200"
            authority.drop_alias()
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await raw.read_frame():
                    pass

    asyncio.run(live())
    assert not accepts(outsider, world, former)
    assert ours.result().end == "alive"


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
        eventually(lambda: "IDENTITY_ERROR" in flags(world.a)[known:], 30.0)
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
    eventually(lambda: world.ask(world.far.address4).end == "ok", 30.0, "it recovers")
