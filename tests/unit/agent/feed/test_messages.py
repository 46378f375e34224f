from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from agent.feed.messages import (
    Closed,
    CredentialsChange,
    Drain,
    NodeReader,
    Opened,
    Ready,
    SnapshotChange,
    ToNode,
    ToWorker,
    WorkerReader,
    WorkerStats,
    encode,
)
from agent.feed.records import from_wire, to_wire
from mesh.errors import ConfigError, RemoteProtocolError
from mesh.model.address import SocketAddress, parse_ip, parse_socket_address
from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag
from mesh.model.credentials import Credentials, Svid, TrustBundle
from mesh.model.identity import parse_spiffe_id

ALICE = parse_spiffe_id("spiffe://cluster.local/ns/default/sa/alice")
CREDENTIALS = Credentials(
    svid=Svid(
        identity=ALICE,
        chain_pem=b"chain",
        key_pem=b"key",
        not_before=1.0,
        not_after=2.0,
        serial="0a",
    ),
    bundle=TrustBundle(trust_domains=("cluster.local",), roots_pem=b"roots"),
)
RECORD = ConnectionRecord(
    reporter=Reporter.DESTINATION,
    path=Path.HBONE,
    flag=ResponseFlag.DENY,
    src=Party(identity="cluster.local/ns/default/sa/alice"),
    dst=Party(workload="pod/default/b", name="b", namespace="default"),
    src_addr=SocketAddress(parse_ip("fd00::1"), 0),
    dst_addr=parse_socket_address("10.0.0.1:80"),
    opened_at=12.5,
    duration_s=0.25,
    bytes_sent=3,
    bytes_received=4,
    hbone_addr=parse_socket_address("[fd00::1]:40000"),
    mutual_tls=True,
    policy="AuthorizationPolicy default/p rule[0]",
    dry_run=("a",),
)
TO_WORKER: list[ToWorker] = [
    SnapshotChange(delta=b"\x00\xff"),
    CredentialsChange(valid=[CREDENTIALS], gone=[ALICE]),
    Drain(timeout_s=3.0),
]
TO_NODE: list[ToNode] = [
    Ready(revision=7),
    Opened(records=[to_wire(RECORD)]),
    Closed(records=[to_wire(RECORD), to_wire(replace(RECORD, hbone_addr=None))]),
    WorkerStats(
        revision=1,
        inbound_tunnels=2,
        outbound_tunnels=3,
        connections=4,
        identities=5,
        lost_records=6,
    ),
]


def test_messages_to_a_worker_arrive_whole_and_byte_by_byte() -> None:
    stream = b"".join(map(encode, TO_WORKER))
    assert WorkerReader().feed(stream) == TO_WORKER
    reader = WorkerReader()
    assert [m for byte in stream for m in reader.feed(bytes([byte]))] == TO_WORKER


def test_messages_to_the_node_arrive_whole_and_byte_by_byte() -> None:
    stream = b"".join(map(encode, TO_NODE))
    assert NodeReader().feed(stream) == TO_NODE
    reader = NodeReader()
    assert [m for byte in stream for m in reader.feed(bytes([byte]))] == TO_NODE


def test_records_survive_the_wire() -> None:
    assert from_wire(to_wire(RECORD)) == RECORD


def test_record_with_a_bad_address_is_refused() -> None:
    wire = to_wire(RECORD)
    with pytest.raises(ConfigError):
        from_wire(
            type(wire)(
                **{f: getattr(wire, f) for f in wire.__struct_fields__ if f != "src_addr"},
                src_addr="nowhere",
            )
        )


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", 5) + b"\xff\xff\xff\xff\xff",
        struct.pack("!I", 1) + b"\xc0",
        encode(Drain(timeout_s=1.0)),
        struct.pack("!I", (4 << 20) + 1),
    ],
)
def test_nonsense_of_a_worker_is_an_error_of_its_own(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeReader().feed(data)
