"""A socket with TLS on it: verified before the first byte, read in batches, closed politely."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mesh.errors import IdentityError
from mesh.tunnel.contract import Loss, LossReason
from mesh.tunnel.peer import VerifiedPeer
from mesh.tunnel.port import Port, describe_os_error
from mesh.tunnel.tls import MAX_RECORD_BYTES, TlsChannel, TlsFailure

_READ_BYTES = 128 * 1024
_FEED_BYTES = 64 * 1024  # a memory BIO keeps its largest size for good, so it is fed in slices
_LINGER_S = 1.0
_LAST_READS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBuffers:
    """Buffers shared by all connections of a loop: used only within one callback."""

    cipher: memoryview
    plain: memoryview


def make_read_buffers() -> ReadBuffers:
    return ReadBuffers(
        cipher=memoryview(bytearray(_READ_BYTES)),
        plain=memoryview(bytearray(_READ_BYTES + 2 * MAX_RECORD_BYTES)),
    )


class LinkOwner(Protocol):
    def link_up(self, peer: VerifiedPeer) -> None:
        """The peer is verified; writing is allowed from now on."""

    def link_data(self, data: memoryview) -> None:
        """Decrypted bytes. The view is reused after the call."""

    def link_writable(self) -> None:
        """The backlog is gone."""

    def link_lost(self, loss: Loss) -> None:
        """Failed or ended by the peer; the link is still to be closed."""

    def link_closed(self) -> None:
        """The socket is closed. Last call."""


class TlsLink:
    """One TLS connection over a port."""

    __slots__ = (
        "_buffers",
        "_channel",
        "_linger_timer",
        "_loop",
        "_owner",
        "_port",
        "_up",
        "_verify",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        channel: TlsChannel,
        verify: Callable[[bytes | None], VerifiedPeer],
        buffers: ReadBuffers,
        owner: LinkOwner,
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._verify = verify
        self._buffers = buffers
        self._owner = owner
        self._up = False
        self._linger_timer: asyncio.TimerHandle | None = None
        self._port = Port(loop, sock, self)

    def start(self) -> None:
        """Begin the handshake; call from the loop, not from the engine's entry."""
        if not self._over:
            self._port.resume()
            self._shake_hands()

    @property
    def backlog(self) -> int:
        """Encrypted bytes that the kernel has not accepted."""
        return self._port.backlog

    def write(self, data: bytes) -> None:
        """Encrypt and send. Errors are reported by the next read."""
        self._send(self._channel.encrypt(data))

    def close(self, *, polite: bool) -> None:
        """Close; `link_closed` follows. With `polite`, what was written is still sent and the peer
        has a moment to read it: closing with unread input would make TCP discard it."""
        if self._port.closed:
            return
        if not polite:
            self._close_port()
            return
        if self._linger_timer is None:
            self._linger_timer = self._loop.call_later(_LINGER_S, self._close_port)
            self._send(self._channel.close() if self._up else b"")
            try:
                self._port.finish()
            except OSError:  # reset by the peer: nothing can be delivered any more
                self._close_port()
            self._port.resume()

    def _close_port(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if not self._port.closed:
            self._port.reset()
            self._loop.call_soon(self._owner.link_closed)

    def port_readable(self) -> None:
        self._read_once()

    def _read_once(self) -> bool:
        """Read and pass on what one call gives; False if there is nothing more to read."""
        try:
            count = self._port.receive_into(self._buffers.cipher)
        except OSError as error:
            if self._linger_timer is not None:
                self._close_port()
            self._lose(LossReason.RESET, describe_os_error(error))
            return False
        if count < 0:
            return False
        if self._linger_timer is not None:
            if count == 0:
                self._close_port()
            return count > 0
        if count == 0:
            self._port.pause()
            self._lose(LossReason.PEER_CLOSED, self._closed_detail())
            return False
        self._process(count)
        return True

    def _process(self, count: int) -> None:
        for start in range(0, count, _FEED_BYTES):
            self._channel.feed(self._buffers.cipher[start : min(start + _FEED_BYTES, count)])
            if not self._up and not self._shake_hands():
                if self._over:
                    return
                continue
            self._decrypt()
            if self._over:
                return

    def port_wrote(self, _count: int) -> None:
        if not self._port.backlog and self._up:
            self._owner.link_writable()

    def port_failed(self, error: OSError) -> None:
        if self._linger_timer is not None:
            self._close_port()
            return
        # A peer that refuses us closes first: the alert that says why may still be unread.
        for _ in range(_LAST_READS):
            if self._over or not self._read_once():
                break
        self._lose(LossReason.RESET, describe_os_error(error))

    def _shake_hands(self) -> bool:
        try:
            done = self._channel.handshake()
            if done:
                peer = self._verify(self._channel.peer_certificate())
        except TlsFailure as failure:
            self._send(self._channel.pending_output())
            self._lose(failure.loss.reason, failure.loss.detail)
            return False
        except IdentityError as error:
            self._send(self._channel.pending_output())
            self._lose(LossReason.IDENTITY, str(error))
            return False
        self._send(self._channel.pending_output())
        if done:
            self._up = True
            self._owner.link_up(peer)
        return done and not self._over

    def _decrypt(self) -> None:
        plain = self._buffers.plain
        while True:
            try:
                count = self._channel.read_into(plain)
            except TlsFailure as failure:
                self._send(self._channel.pending_output())
                self._lose(failure.loss.reason, failure.loss.detail)
                return
            if not count:
                return
            self._owner.link_data(plain[:count])
            if self._over or not self._channel.has_more:
                return

    @property
    def _over(self) -> bool:
        """Closed, or only waiting for the peer to read the last bytes."""
        return self._port.closed or self._linger_timer is not None

    def _send(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:
            # Not at once: the owner is in the middle of what made it write.
            self._loop.call_soon(self.port_failed, error)

    def _closed_detail(self) -> str:
        return "peer closed the connection" if self._up else "peer closed during the handshake"

    def _lose(self, reason: LossReason, detail: str) -> None:
        if not self._over:
            self._owner.link_lost(Loss(reason=reason, detail=detail))
