"""Answers the plugin: a pod may start once it is captured, or is none of ours.

One connection is one question. The socket is root's alone (mode 0600 in the node's run directory).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.cni.request import MAX_REQUEST_BYTES, CniError, Code, Request, parse_request
from agent.holder.wire import short_address
from mesh.errors import ConfigError, MeshnodeError

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
Decide = Callable[[Request], Awaitable[None]]
"""Returns when the pod may start; raises `CniError` when it may not."""


@asynccontextmanager
async def serve_cni(path: Path, decide: Decide) -> AsyncIterator[None]:
    """Answer while the block runs; the socket is gone afterwards. Raises `ConfigError`."""
    sock = _bind(path)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            text = await _answer(reader, decide)
            writer.write(text.encode())
            await writer.drain()
        except (ConnectionError, TimeoutError) as error:
            log.warning("the CNI plugin went away: %s", error or "time-out")
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, sock=sock)
    try:
        async with server:
            yield
    finally:
        _remove(path)


async def _answer(reader: asyncio.StreamReader, decide: Decide) -> str:
    async with asyncio.timeout(READ_TIMEOUT_S):
        data = await reader.read(MAX_REQUEST_BYTES)
        while data and not reader.at_eof() and len(data) < MAX_REQUEST_BYTES:
            data += await reader.read(MAX_REQUEST_BYTES - len(data))
    try:
        request = parse_request(data)
        await decide(request)
    except CniError as error:
        log.warning("the start of a pod is refused: %s", error)
        return _error(error.code, str(error))
    except MeshnodeError as error:
        log.error("the start of a pod fails: %s", error)
        return _error(Code.TRY_LATER, str(error))
    return "OK\n"


def _error(code: Code, text: str) -> str:
    return f"ERR {int(code)} {' '.join(text.split())[:1000]}\n"


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        with short_address(path) as address:
            sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{path} cannot be bound: {error.strerror}") from error
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
