"""Records of requests; a test spells only what it is about."""

from __future__ import annotations

from mesh.model.address import parse_socket_address
from mesh.model.connection import Party
from mesh.model.request import RequestFlag, RequestRecord


def record(**fields: object) -> RequestRecord:
    """A request that went well, but for `fields`."""
    made = RequestRecord(
        src=Party(
            workload="pod/shop/client",
            name="client",
            namespace="shop",
            identity="cluster.local/ns/shop/sa/client",
        ),
        dst=Party(workload="pod/shop/web-1", name="web-1", namespace="shop", app_name="web"),
        service="shop/web",
        protocol="HTTP/1.1",
        method="GET",
        path="/v1/items?secret=1",
        authority="web:80",
        status=200,
        grpc_status=-1,
        flag=RequestFlag.NONE,
        details="via_upstream",
        bytes_received=0,
        bytes_sent=2,
        started_at=1_700_000_000.0,
        duration_s=0.25,
        upstream_s=0.2,
        upstream_addr=parse_socket_address("10.0.0.2:8080"),
        client_addr=parse_socket_address("10.0.0.1:40000"),
        dialled_addr=parse_socket_address("10.96.0.1:80"),
        route="shop/web/0",
        request_id="id",
        user_agent="curl",
        forwarded_for="",
        tries=1,
        mutual_tls=True,
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made
