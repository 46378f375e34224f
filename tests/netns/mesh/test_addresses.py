"""Who the application sees, on every path, in both directions and both families."""

from __future__ import annotations

import pytest

from tests.netns.mesh.world import Mesh, own_port

pytestmark = pytest.mark.root

PAIRS = [
    ("client", "far", "hbone"),
    ("far", "client", "hbone"),
    ("client", "near", "direct"),
    ("outsider", "far", "passthrough"),
    ("outsider", "client", "passthrough"),
    ("stranger", "client", "passthrough"),
]
"""Source, destination, path as the destination's node reports it."""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("src", "dst", "path"), PAIRS)
def test_the_application_sees_the_real_client(
    mesh: Mesh, src: str, dst: str, path: str, family: int
) -> None:
    source, target = mesh[src], mesh[dst]
    address = target.address4 if family == 4 else target.address6
    answer = mesh.dial(src, address)
    assert answer["server"] == dst
    assert answer["seen_as"] == (source.address4 if family == 4 else source.address6)
    assert answer["peer"] == [address, 7000]
    assert answer["echoed"] is True
    side = "outbound" if path == "direct" else "inbound"
    record = mesh.record(port=own_port(answer), direction=side, dst_workload=dst)
    assert record["path"] == path
    assert record["mutual_tls"] is (path == "hbone")


@pytest.mark.parametrize("family", [4, 6])
def test_out_of_the_mesh_is_left_alone(mesh: Mesh, family: int) -> None:
    target = mesh["stranger"]
    address = target.address4 if family == 4 else target.address6
    answer = mesh.dial("client", address)
    source = mesh["client"]
    assert answer["seen_as"] == (source.address4 if family == 4 else source.address6)
    assert answer["own"] == [answer["seen_as"], own_port(answer)]  # nothing stood in between
    assert mesh.record(port=own_port(answer), direction="outbound")["path"] == "passthrough"
