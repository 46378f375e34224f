"""The compiled engine as Python sees it: typed, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from mesh.errors import ConfigError, IdentityError, LocalProtocolError
from mesh.model.credentials import Credentials
from mesh.tunnel.contract import EndReason, Headers, LossReason, TunnelSettings
from mesh.tunnel.tls import describe_tls_reason

try:
    from mesh.tunnel.native._native import ffi, lib
except ImportError as error:
    raise ConfigError(
        f"the native tunnel engine cannot be loaded ({error}); install libssl-dev, libnghttp2-dev"
        " and a C compiler and run `python -m mesh.tunnel.native.build`, or choose the engine"
        " `python`"
    ) from error

# A client's limit on response headers (istio/ztunnel `proxy/h2/client.rs`); a server's is set.
_CLIENT_HEADER_LIST_BYTES = 16 * 1024

HANDSHAKE: int = lib.MT_HANDSHAKE
UP: int = lib.MT_UP
PEER_LIMIT: int = lib.MT_PEER_LIMIT
DRAINING: int = lib.MT_DRAINING
LOST: int = lib.MT_LOST
REQUEST: int = lib.MT_REQUEST
OPENED: int = lib.MT_OPENED
REFUSED: int = lib.MT_REFUSED
CLOSED: int = lib.MT_CLOSED
STOPPED: int = lib.MT_STOPPED
ACCEPTED: int = lib.MT_ACCEPTED
ENDED: int = lib.MT_ENDED
TALLY: int = lib.MT_TALLY
WANTED: int = lib.MT_WANTED
LISTED: int = lib.MT_LISTED
LIST_END: int = lib.MT_LIST_END
GONE: int = lib.MT_GONE

LOSSES: dict[int, LossReason] = {
    getattr(lib, f"MT_LOSS_{reason.name}"): reason for reason in LossReason
}
ENDS: dict[int, EndReason] = {getattr(lib, f"MT_END_{reason.name}"): reason for reason in EndReason}


class CData(Protocol):
    """A pointer into the engine's memory."""


class Handle(Protocol):
    """A tunnel, stream or relay of the engine; let go of when it is collected."""


class Context(Protocol):
    """Key material ready for use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event.

    Attributes:
        key: of the object it is about; unique among objects that are held.
        stream: MT_REQUEST only.
        status, port, began_at, lasted_s, established: of connections of lanes.
        text: DER, or a detail for people.
    """

    kind: int
    code: int
    key: int
    stream: Handle | None
    headers: Headers
    text: bytes
    bytes_out: int
    bytes_in: int
    status: int
    port: int
    began_at: float
    lasted_s: float
    established: bool

    @property
    def detail(self) -> str:
        return self.text.decode("utf-8", "replace")


def join_headers(headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, int]:
    """Names and values joined by NUL, and how many pairs there are."""
    return b"\0".join(part for pair in headers for part in pair), len(headers)


def split_headers(text: bytes) -> list[tuple[bytes, bytes]]:
    parts = text.split(b"\0")
    return list(zip(parts[0:-1:2], parts[1:-1:2], strict=True))


def make_context(credentials: Credentials, *, server: bool) -> Context:
    """Raises `IdentityError` for key material that cannot be used."""
    svid, roots = credentials.svid, credentials.bundle.roots_pem
    error = ffi.new("char[256]")
    context = lib.mt_context_new(
        server,
        svid.chain_pem,
        len(svid.chain_pem),
        svid.key_pem,
        len(svid.key_pem),
        roots,
        len(roots),
        error,
        256,
    )
    if not context:
        why = ffi.string(error).decode("utf-8", "replace")
        raise IdentityError(f"key material of {svid.identity} cannot be used: {why}")
    return cast("Context", ffi.gc(context, lib.mt_context_free))


class Core:
    """One native thread. Close it after STOPPED came."""

    __slots__ = ("_engine",)

    @property
    def pointer(self) -> CData:
        """For the calls in `lanes.py`."""
        return cast("CData", self._engine)

    def __init__(self, settings: TunnelSettings) -> None:
        numbers = ffi.new(
            "mt_settings *",
            {
                "stream_window": settings.stream_window_bytes,
                "connection_window": settings.connection_window_bytes,
                "max_frame": settings.max_frame_bytes,
                "max_header_list": settings.max_header_list_bytes,
                "client_max_header_list": min(
                    _CLIENT_HEADER_LIST_BYTES, settings.max_header_list_bytes
                ),
                "max_concurrent_streams": settings.max_concurrent_streams,
                "handshake_timeout_s": settings.handshake_timeout_s,
                "ping_interval_s": settings.ping_interval_s,
                "ping_timeout_s": settings.ping_timeout_s,
                "records_per_s": settings.records_per_s,
            },
        )
        engine = lib.mt_engine_new(numbers)
        if not engine:
            raise OSError(ffi.errno, "the native tunnel engine cannot start")
        self._engine = ffi.gc(engine, lib.mt_engine_free)

    def fileno(self) -> int:
        """Readable while `events()` has something."""
        return int(lib.mt_engine_fd(self._engine))

    def stop(self) -> None:
        """Cut everything; STOPPED follows the last event."""
        lib.mt_engine_stop(self._engine)

    def close(self) -> None:
        """Wait for the thread, which has stopped, and give everything back."""
        ffi.release(self._engine)

    def events(self) -> Iterator[Record]:
        first = lib.mt_events(self._engine)
        if not first:
            return
        try:
            event = first
            while event:
                yield _record(event)
                event = event.next
        finally:
            lib.mt_events_free(first)

    # --- commands -----------------------------------------------------------------------------

    def tunnel(self, context: Context, fd: int, *, client: bool) -> Handle:
        """Owns `fd` from here on."""
        return held(lib.mt_tunnel_new(self._engine, context, client, fd))

    def approve(self, tunnel: Handle) -> None:
        lib.mt_approve(self._engine, tunnel)

    def reject(self, tunnel: Handle, detail: str) -> None:
        text = detail.encode()
        lib.mt_reject(self._engine, tunnel, text, len(text))

    def drain(self, tunnel: Handle, timeout_s: float) -> None:
        lib.mt_drain(self._engine, tunnel, timeout_s)

    def open_stream(self, tunnel: Handle, headers: Headers, fd: int) -> Handle:
        """Raises `LocalProtocolError` for headers that HTTP/2 forbids; `fd` is not touched."""
        text, count = join_headers(headers)
        stream = lib.mt_stream_open(self._engine, tunnel, text, len(text), count, fd)
        if not stream:
            raise LocalProtocolError("headers that HTTP/2 forbids")
        return held(stream)

    def accept(self, stream: Handle, headers: Headers, fd: int) -> None:
        """Owns `fd` from here on, unless it raises `LocalProtocolError`."""
        text, count = join_headers(headers)
        if lib.mt_accept(self._engine, stream, text, len(text), count, fd):
            raise LocalProtocolError("headers that HTTP/2 forbids")

    def refuse(self, stream: Handle, headers: Headers) -> None:
        text, count = join_headers(headers)
        if lib.mt_refuse(self._engine, stream, text, len(text), count):
            raise LocalProtocolError("headers that HTTP/2 forbids")

    def decline(self, stream: Handle) -> None:
        lib.mt_decline(self._engine, stream)

    def relay(self, first: int, second: int) -> Handle:
        """Owns both descriptors from here on."""
        return held(lib.mt_relay_new(self._engine, first, second))

    def abort(self, handle: Handle, detail: str) -> None:
        text = detail.encode()
        lib.mt_abort(self._engine, handle, text, len(text))


def key_of(handle: Handle) -> int:
    return int(ffi.cast("uintptr_t", handle))


def bytes_out(handle: Handle) -> int:
    return int(lib.mt_bytes_out(handle))


def bytes_in(handle: Handle) -> int:
    return int(lib.mt_bytes_in(handle))


def active_streams(tunnel: Handle) -> int:
    return int(lib.mt_active_streams(tunnel))


def lane_streams(tunnel: Handle) -> int:
    return int(lib.mt_lane_streams(tunnel))


def held(pointer: CData) -> Handle:
    """Let go of the object once nobody refers to it."""
    if not pointer:
        raise MemoryError("the native tunnel engine is out of memory")
    return cast("Handle", ffi.gc(pointer, lib.mt_release))


def _record(event: CData) -> Record:
    view = cast("_Event", event)
    text = bytes(ffi.buffer(view.text, view.text_len)) if view.text_len else b""
    kind = view.kind
    if kind == LOST and view.code == lib.MT_LOSS_TLS:
        text = describe_tls_reason(text.decode("ascii", "replace")).encode()
    return Record(
        kind=kind,
        code=view.code,
        key=int(ffi.cast("uintptr_t", view.object)),
        stream=held(view.stream) if kind == REQUEST else None,
        headers=split_headers(text) if view.fields and kind < STOPPED else (),
        text=text,
        bytes_out=view.bytes_out,
        bytes_in=view.bytes_in,
        status=view.status,
        port=view.port,
        began_at=view.began_at,
        lasted_s=view.lasted_s,
        established=bool(view.fields),
    )


class _Event(Protocol):
    """`mt_event` of native.h."""

    kind: int
    code: int
    status: int
    port: int
    began_at: float
    lasted_s: float
    fields: int
    text_len: int
    bytes_out: int
    bytes_in: int
    text: CData
    object: CData
    stream: CData
