"""Every way a program can connect, across nodes (captured) and inside one (direct)."""

from __future__ import annotations

import socket

import pytest

from tests.netns.mesh.apps.dial import IPPROTO_MPTCP
from tests.netns.mesh.world import Mesh, own_port

pytestmark = pytest.mark.root

KINDS = [
    "blocking",
    "nonblocking",
    "asyncio",
    "mapped",
    "bound",
    "device",
    "fastopen_send",
    "fastopen_connect",
    "mptcp",
]
V6_KINDS = [kind for kind in KINDS if kind != "mapped"]


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def connect(mesh: Mesh, kind: str, dst: str, *, v6: bool) -> dict[str, object]:
    """What a client of a kind reports."""
    client, target = mesh["client"], mesh[dst]
    address = target.address6 if v6 else target.address4
    if kind == "bound":
        own = client.address6 if v6 else client.address4
        return dict(mesh.dial("client", address, kind=kind, source=own))
    if kind == "device":
        return dict(mesh.dial("client", address, kind=kind, device="eth0"))
    if kind == "mptcp" and not has_mptcp():
        pytest.skip("this kernel has no MPTCP")
    return dict(mesh.dial("client", address, kind=kind))


def assert_served(mesh: Mesh, answer: dict[str, object], dst: str, *, v6: bool) -> None:
    source, target = mesh["client"], mesh[dst]
    assert "error" not in answer, answer
    assert answer["server"] == dst
    assert answer["echoed"] is True
    assert answer["seen_as"] == (source.address6 if v6 else source.address4)
    assert answer["peer"] == [target.address6 if v6 else target.address4, 7000]
    path = "hbone" if dst == "far" else "direct"
    record = mesh.record(port=own_port(answer), direction="outbound", dst_workload=dst)
    assert record["path"] == path


@pytest.mark.parametrize("dst", ["far", "near"])
@pytest.mark.parametrize("kind", KINDS)
def test_ipv4(mesh: Mesh, kind: str, dst: str) -> None:
    assert_served(mesh, connect(mesh, kind, dst, v6=False), dst, v6=False)


@pytest.mark.parametrize("dst", ["far", "near"])
@pytest.mark.parametrize("kind", V6_KINDS)
def test_ipv6(mesh: Mesh, kind: str, dst: str) -> None:
    assert_served(mesh, connect(mesh, kind, dst, v6=True), dst, v6=True)


@pytest.mark.parametrize("dst", ["far", "near"])
def test_a_bound_source_port_is_kept(mesh: Mesh, dst: str) -> None:
    source = mesh["client"].address4
    answer = mesh.dial("client", dst, kind="bound", source=source, source_port=45678)
    assert answer["own"] == [source, 45678]
    assert_served(mesh, dict(answer), dst, v6=False)
