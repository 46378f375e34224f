"""The native tunnel engine behind the seam `mesh.tunnel.contract.TunnelEngine`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque

from mesh.errors import LocalProtocolError, MeshnodeError
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.contexts import ContextCache
from mesh.tunnel.contract import RelayEvents, TunnelEvents, TunnelSettings
from mesh.tunnel.native.core import (
    ACCEPTED,
    LIST_END,
    STOPPED,
    Core,
    Handle,
    Record,
    key_of,
    make_context,
)
from mesh.tunnel.native.lanes import NativeLanes
from mesh.tunnel.native.objects import NativeRelay, NativeTunnel, Subject


class NativeTunnelEngine:
    """One C thread that moves the bytes of every tunnel and relay given to it.

    Belongs to the loop it was made for. The thread starts with the first socket; after `aclose()`
    the engine takes no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: TunnelSettings) -> None:
        self.loop = loop
        self._settings = settings
        self._contexts = ContextCache(make_context)
        self._core: Core | None = None
        self._subjects: dict[int, tuple[Subject, Handle]] = {}
        self._records: deque[Record] = deque()
        self._closing = False
        self.lanes = NativeLanes(self)
        self._stopped: asyncio.Future[None] | None = None

    # --- the contract -------------------------------------------------------------------------

    def client(
        self,
        sock: socket.socket,
        credentials: Credentials,
        expected: frozenset[SpiffeId],
        events: TunnelEvents,
    ) -> NativeTunnel:
        """Raises `LocalProtocolError` if nobody is expected or the engine was closed,
        `IdentityError` for bad keys."""
        if not expected:
            sock.close()
            raise LocalProtocolError("a tunnel's client must expect at least one identity")
        return self._tunnel(sock, credentials, expected, events)

    def server(
        self, sock: socket.socket, credentials: Credentials, events: TunnelEvents
    ) -> NativeTunnel:
        """Raises `IdentityError` for bad keys, `LocalProtocolError` if the engine was closed."""
        return self._tunnel(sock, credentials, frozenset(), events)

    def relay(
        self, first: socket.socket, second: socket.socket, events: RelayEvents
    ) -> NativeRelay:
        """Raises `LocalProtocolError` if the engine was closed."""
        try:
            core = self.running()
        except (MeshnodeError, OSError):
            first.close()
            second.close()
            raise
        return NativeRelay(self, core.relay(first.detach(), second.detach()), events)

    async def aclose(self) -> None:
        self._closing = True
        if self._core is None:
            return
        if self._stopped is None:
            self._stopped = self.loop.create_future()
            self._core.stop()
        await asyncio.shield(self._stopped)

    # --- for the objects ----------------------------------------------------------------------

    @property
    def core(self) -> Core | None:
        """None once the engine is being closed: everything ends then, and nothing can be asked
        for any more."""
        return None if self._closing else self._core

    def register(self, handle: Handle, subject: Subject) -> None:
        """Deliver the events of `handle` from now on, until the last one."""
        if not self._closing:
            self._subjects[key_of(handle)] = (subject, handle)

    # --- inside -------------------------------------------------------------------------------

    def _tunnel(
        self,
        sock: socket.socket,
        credentials: Credentials,
        expected: frozenset[SpiffeId],
        events: TunnelEvents,
    ) -> NativeTunnel:
        client = bool(expected)
        try:
            context = self._contexts.get(credentials, server=not client)
            core = self.running()
        except (MeshnodeError, OSError):
            sock.close()
            raise
        return NativeTunnel(
            self,
            core.tunnel(context, sock.detach(), client=client),
            events,
            trust_domains=credentials.bundle.trust_domains,
            expected=expected,
            max_streams=self._settings.max_concurrent_streams,
        )

    def running(self) -> Core:
        """Raises `LocalProtocolError` if the engine was closed, OSError if it cannot start."""
        if self._closing:
            raise LocalProtocolError("the tunnel engine is closed")
        if self._core is None:
            self._core = Core(self._settings)
            self.loop.add_reader(self._core.fileno(), self._collect)
        return self._core

    def _collect(self) -> None:
        if self._core is not None:
            self._records.extend(self._core.events())
            self._deliver()

    def _deliver(self) -> None:
        """Deliver what was collected, in order. A callback that raises is reported by the loop;
        what comes after it is still delivered."""
        records = self._records
        try:
            while records:
                self._dispatch(records.popleft())
        finally:
            if records:
                self.loop.call_soon(self._deliver)

    def _dispatch(self, record: Record) -> None:
        if record.kind == STOPPED:
            self._close()
            return
        if record.kind == LIST_END:
            self.lanes.list_ended()
            return
        entry = self._subjects.get(record.key)
        if entry is None:
            if record.kind == ACCEPTED:
                os.close(record.code)
            return
        over = True
        try:
            over = entry[0].event(record)
        finally:
            if over:
                self._subjects.pop(record.key, None)

    def _close(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            self.loop.remove_reader(core.fileno())
            core.close()
        self._subjects.clear()
        self.lanes.list_ended()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
