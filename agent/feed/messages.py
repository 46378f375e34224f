"""The messages, as msgspec structs in MessagePack, each behind a 4-byte length (network order)."""

from __future__ import annotations

import struct

import msgspec

from agent.feed.records import Tally, WireRecord
from mesh.errors import RemoteProtocolError
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId

_LENGTH = struct.Struct("!I")
MAX_TO_WORKER_BYTES = 1 << 30
MAX_TO_NODE_BYTES = 4 << 20
MAX_LISTED = 5000
"""Records of one `OpenConnections`: at some 300 bytes each it stays below the limit."""


class SnapshotChange(msgspec.Struct, frozen=True, tag="snapshot"):
    """A change of the mesh: `mesh.state.delta` bytes, relative to the last one sent."""

    delta: bytes


class CredentialsChange(msgspec.Struct, frozen=True, tag="credentials"):
    """Certificates of identities that run on this node; `gone` ones must not be used any more."""

    valid: list[Credentials]
    gone: list[SpiffeId]


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Stop accepting, finish what is open, end after `timeout_s` at the latest."""

    timeout_s: float


class SetLogLevel(msgspec.Struct, frozen=True, tag="log_level"):
    level: str


class Watched(msgspec.Struct, frozen=True, tag="watched"):
    """Whether somebody looks at single connections: tell of more of them."""

    is_watched: bool


class ListConnections(msgspec.Struct, frozen=True, tag="list_connections"):
    """Ask for `OpenConnections` with the same `request`."""

    request: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has state and listeners of revision `revision`."""

    revision: int


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """Connections that began; byte counts and duration are zero."""

    records: list[WireRecord]


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """Connections that ended, failed or were refused; each exactly once."""

    records: list[WireRecord]


class Tallies(msgspec.Struct, frozen=True, tag="tallies"):
    """Connections that are counted, not reported one by one."""

    tallies: list[Tally]


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Some of the ended connections that tallies count, for the access log."""

    records: list[WireRecord]


class OpenConnections(msgspec.Struct, frozen=True, tag="open_connections"):
    """What is open at this moment, at most `MAX_LISTED`, longest first."""

    request: int
    records: list[WireRecord]


class WorkerStats(msgspec.Struct, frozen=True, tag="stats", kw_only=True):
    """Sent every few seconds."""

    revision: int
    inbound_tunnels: int
    outbound_tunnels: int
    connections: int
    identities: int
    lost_records: int
    expired_cut: int = 0


ToWorker = SnapshotChange | CredentialsChange | Drain | SetLogLevel | Watched | ListConnections
ToNode = Ready | Opened | Closed | Tallies | Told | OpenConnections | WorkerStats


_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_node = msgspec.msgpack.Decoder(ToNode)


def encode(message: ToWorker | ToNode) -> bytes:
    """A message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class _Framer:
    """Cuts a byte stream into message bodies."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        bodies = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limit:
                raise RemoteProtocolError(f"message of {length} bytes, {self._limit} allowed")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return bodies


class WorkerReader:
    """Node to worker: bytes in, messages out."""

    def __init__(self) -> None:
        self._framer = _Framer(MAX_TO_WORKER_BYTES)

    def feed(self, data: bytes) -> list[ToWorker]:
        return [_to_worker.decode(body) for body in self._framer.feed(data)]


class NodeReader:
    """Worker to node: bytes in, messages out. Raises `RemoteProtocolError` for anything else."""

    def __init__(self) -> None:
        self._framer = _Framer(MAX_TO_NODE_BYTES)

    def feed(self, data: bytes) -> list[ToNode]:
        try:
            return [_to_node.decode(body) for body in self._framer.feed(data)]
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(f"a worker sent a bad message: {error}") from error
