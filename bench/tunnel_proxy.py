"""One side of a tunnel without a mesh: accepts connections, or a tunnel, and passes bytes on.

    python -m bench.tunnel_proxy FILE

The file is a pickled `ProxySettings`. No capture, no policy, no records: what is left is an engine.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.tunnel.contract import End, Headers, Loss, StreamRequest, Tunnel, TunnelSettings
from mesh.tunnel.select import engine_factory, parse_engine


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """What a side is told.

    Attributes:
        engine: native or python.
        expects: identities of the other end of the tunnel; a side with none is the server's.
        listen: address, port, and where the CONNECT of such a connection leads.
        next: of the client's side: the tunnel's other end; of the server's: the application.
    """

    engine: str
    credentials: Credentials
    expects: frozenset[SpiffeId]
    listen: Sequence[tuple[str, int, str]]
    next: tuple[str, int]


def command(settings: ProxySettings, path: Path) -> list[str]:
    """Write the settings; the command line that runs a side with them."""
    path.write_bytes(pickle.dumps(settings))
    return [sys.executable, "-m", "bench.tunnel_proxy", str(path)]


class _Streams:
    """Events that a benchmark has no use for."""

    def stream_opened(self, headers: Headers) -> None: ...
    def stream_refused(self, status: int, headers: Headers, detail: str) -> None: ...
    def stream_closed(self, end: End) -> None: ...


class _Proxy:
    """Either side: `TunnelEvents`, and the dialling of applications."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: ProxySettings) -> None:
        self._loop = loop
        self._settings = settings
        self._engine = engine_factory(parse_engine(settings.engine))(loop, TunnelSettings())
        self._dials: set[asyncio.Task[None]] = set()
        self._up: asyncio.Future[Tunnel] = loop.create_future()

    def tunnel_up(self, tunnel: Tunnel) -> None:
        if not self._up.done():
            self._up.set_result(tunnel)

    def tunnel_draining(self, tunnel: Tunnel) -> None: ...
    def stream_slot_free(self, tunnel: Tunnel) -> None: ...

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        if not self._up.done():
            self._up.set_exception(ConnectionError(f"{loss.reason}: {loss.detail}"))

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        task = self._loop.create_task(self._answer(request))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _answer(self, request: StreamRequest) -> None:
        request.accept((), await self._dial(), _Streams())

    async def _dial(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await self._loop.sock_connect(sock, self._settings.next)
        return sock

    async def serve(self) -> None:
        """For ever."""
        settings = self._settings
        if settings.expects:
            credentials = settings.credentials
            self._engine.client(await self._dial(), credentials, settings.expects, self)
            await self._up
        async with asyncio.TaskGroup() as tasks:
            for address, port, authority in settings.listen:
                tasks.create_task(self._accept(address, port, authority))

    async def _accept(self, address: str, port: int, authority: str) -> None:
        headers = ((b":method", b"CONNECT"), (b":authority", authority.encode()))
        with socket.create_server((address, port), backlog=512) as listener:
            listener.setblocking(False)
            while True:
                sock, _ = await self._loop.sock_accept(listener)
                sock.setblocking(False)
                if self._settings.expects:
                    self._up.result().open_stream(headers, sock, _Streams())
                else:
                    self._engine.server(sock, self._settings.credentials, self)


async def _serve(settings: ProxySettings) -> None:
    await _Proxy(asyncio.get_running_loop(), settings).serve()


def main() -> int:
    settings: ProxySettings = pickle.loads(Path(sys.argv[1]).read_bytes())
    uvloop.run(_serve(settings))
    return 0


if __name__ == "__main__":
    # Its settings were pickled under this name, not under __main__.
    from bench.tunnel_proxy import main as run

    sys.exit(run())
