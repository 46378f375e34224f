"""A connection record with every field filled; a test spells what it is about."""

from __future__ import annotations

from dataclasses import replace

from mesh.model.address import parse_socket_address
from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag

BASE = ConnectionRecord(
    reporter=Reporter.SOURCE,
    path=Path.HBONE,
    flag=ResponseFlag.NONE,
    src=Party(
        workload="pod/shop/cart-1",
        name="cart-1",
        namespace="shop",
        app_name="cart",
        identity="cluster.local/ns/shop/sa/cart",
        canonical_service="cart",
        canonical_revision="v1",
    ),
    dst=Party(
        workload="pod/bank/pay-1",
        name="pay-1",
        namespace="bank",
        app_name="pay",
        identity="cluster.local/ns/bank/sa/pay",
        canonical_service="pay",
        canonical_revision="v2",
    ),
    src_addr=parse_socket_address("10.0.0.1:40000"),
    dst_addr=parse_socket_address("[fd00::2]:8080"),
    opened_at=1_700_000_000.0,
    duration_s=0.25,
    bytes_sent=100,
    bytes_received=2000,
    service="bank/pay",
    hbone_addr=parse_socket_address("10.0.1.2:15008"),
    mutual_tls=True,
)


def denied() -> ConnectionRecord:
    """A plaintext connection that a policy refused."""
    return replace(
        BASE,
        reporter=Reporter.DESTINATION,
        path=Path.PASSTHROUGH,
        flag=ResponseFlag.DENY,
        mutual_tls=False,
        hbone_addr=None,
        policy="AuthorizationPolicy bank/only-cart rule[0]",
        detail="denied",
    )
