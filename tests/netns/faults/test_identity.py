"""The authority gives a node only identities that run on it, whatever its agent asks for."""

from __future__ import annotations

import asyncio

import pytest

from agent.options import DEFAULT_CA_PORT
from mesh.identity.client import CaClient
from mesh.identity.errors import RefusedError
from mesh.model.identity import SpiffeId
from tests.lab.system import in_netns
from tests.netns.faults.world import World, agent_of

pytestmark = pytest.mark.root


def ask_for(world: World, account: str) -> None:
    """As node b, with its own join token."""
    token = (world.lab.directory / "join-b").read_text().strip()
    identity = SpiffeId(trust_domain="cluster.local", namespace="default", service_account=account)

    async def fetch() -> None:
        host = world.a.addresses.underlay4
        async with CaClient(host=host, port=DEFAULT_CA_PORT, token=token) as client:
            await client.fetch(identity)

    in_netns(world.b.netns, lambda: asyncio.run(fetch()))


def test_the_authority_refuses_what_does_not_run_on_the_node(world: World) -> None:
    ask_for(world, "far")
    for account in ("client", "near", "nobody"):
        with pytest.raises(RefusedError, match="runs on node"):
            ask_for(world, account)
    assert agent_of(world.a).running
