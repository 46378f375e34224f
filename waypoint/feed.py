"""What supervisor and workers tell each other: msgspec structs, each behind a 4-byte length."""

from __future__ import annotations

import struct
from typing import Generic, TypeVar

import msgspec

from mesh.errors import RemoteProtocolError
from mesh.model.connection import Party, ResponseFlag
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.span import Span
from mesh.telemetry.requests import Series
from waypoint.telemetry.tap import TapEvent, TapFilter

_LENGTH = struct.Struct("!I")
MAX_BYTES = 1 << 30


class SnapshotChange(msgspec.Struct, frozen=True, tag="snapshot"):
    """`mesh.state.delta` bytes, relative to the last one sent."""

    delta: bytes


class CredentialsChange(msgspec.Struct, frozen=True, tag="credentials"):
    valid: list[Credentials]
    gone: list[SpiffeId]


class TapChange(msgspec.Struct, frozen=True, tag="taps"):
    """Who watches now."""

    taps: list[TapFilter]


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    timeout_s: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker serves."""

    revision: int


class Tally(msgspec.Struct, frozen=True, tag="tally"):
    """Requests since the last one: label values, then count, sum of seconds, bytes in and out,
    and counts per bucket of duration; edge, rule and example of the last minutes' memory."""

    series: list[Series]


class Counts(msgspec.Struct, frozen=True, tag="counts"):
    """Events since the last one: metric, label values, how many."""

    counts: list[tuple[str, tuple[str, ...], int]]


class Spans(msgspec.Struct, frozen=True, tag="spans"):
    """Spans since the last one, and how many had no room."""

    spans: list[Span]
    dropped: int


class ConnectionOpened(msgspec.Struct, frozen=True, kw_only=True):
    src: Party
    dst: Party
    service: str
    mutual_tls: bool


class ConnectionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What metrics want to know of it; the access log has its line already."""

    src: Party
    dst: Party
    service: str
    mutual_tls: bool
    flag: ResponseFlag
    sent: int
    received: int
    policy: str
    audited: bool
    dry_run: bool


class Connections(msgspec.Struct, frozen=True, tag="connections"):
    """Connections that are no HTTP, since the last one."""

    opened: list[ConnectionOpened]
    ended: list[ConnectionEnded]


class Tapped(msgspec.Struct, frozen=True, tag="tapped"):
    """Tap, what it caught since the last one, and how many had no room."""

    tap: int
    events: list[TapEvent]
    lost: int


class Lines(msgspec.Struct, frozen=True, tag="lines"):
    """Lines of the access log."""

    text: str


class EndpointState(msgspec.Struct, frozen=True):
    address: str
    workload: str
    active: int
    idle: int


class MemberState(msgspec.Struct, frozen=True):
    """An endpoint as a policy sees it; `state` as in `mesh.resilience.outlier.HealthState`."""

    address: str
    workload: str
    active: int
    connections: int
    weight: int
    zone: str
    state: str
    failures_in_row: int
    ejections: int
    ejected_s: float


class LimitState(msgspec.Struct, frozen=True):
    """A limit of this worker: what there is, may be (None = no limit), and was refused."""

    active: int
    most: int | None
    refused: int


class RateState(msgspec.Struct, frozen=True):
    """A rate limit since this worker began to serve."""

    name: str
    shadow: bool
    passed: int
    limited: int


class ClusterState(msgspec.Struct, frozen=True):
    """A service port under a policy; `policies` names the object of each part."""

    service: str
    port: int
    route: str
    algorithm: str
    policies: dict[str, str]
    endpoints: list[MemberState]
    limits: dict[str, LimitState]
    rate_limits: list[RateState]


class IssuerKeys(msgspec.Struct, frozen=True, kw_only=True):
    """One place that keys of token issuers are fetched from; `age_s` None: there never were any."""

    source: str
    keys: int
    age_s: float | None
    failures: int
    error: str
    problems: list[str]


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Sent every second."""

    revision: int
    tunnels: int
    requests: int
    lost_lines: int
    endpoints: list[EndpointState]
    clusters: list[ClusterState]
    issuers: list[IssuerKeys] = []


ToWorker = SnapshotChange | CredentialsChange | TapChange | Drain
ToSupervisor = Ready | Tally | Counts | Connections | Spans | Tapped | Lines | Stats
_Message = TypeVar("_Message")
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToWorker | ToSupervisor) -> bytes:
    """A message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Reader(Generic[_Message]):
    """Bytes in, messages out."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[_Message]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[_Message]:
        """Raises `RemoteProtocolError` for anything that is not a message."""
        self._buffer += data
        messages: list[_Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_BYTES:
                raise RemoteProtocolError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages.append(self._decoder.decode(self._buffer[_LENGTH.size : end]))
            except msgspec.DecodeError as error:
                raise RemoteProtocolError(f"a bad message: {error}") from error
            del self._buffer[:end]
        return messages


def worker_reader() -> Reader[ToWorker]:
    return Reader(msgspec.msgpack.Decoder(ToWorker))


def supervisor_reader() -> Reader[ToSupervisor]:
    return Reader(msgspec.msgpack.Decoder(ToSupervisor))
