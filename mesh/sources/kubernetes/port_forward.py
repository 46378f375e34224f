"""A connection to a port of a pod's loopback, through the API server.

The kubelet dials the port from inside the pod's network namespace, so nothing has to be open to the
network: who may `create pods/portforward` there gets in, and nobody else. What travels is the
kubelet's channel protocol (`v4.channel.k8s.io`, k8s.io/kubelet/pkg/cri/streaming/portforward): each
binary message begins with the number of a channel, 0 for data and 1 for errors, and the first
message on each holds the port alone. There is no half-close: the end of either side is the end.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.transport import KubeApi

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
PORT_BYTES = 2
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PodPort:
    """Where to."""

    namespace: str
    pod: str
    port: int

    @property
    def path(self) -> str:
        """The subresource."""
        namespace, pod = quote(self.namespace, safe=""), quote(self.pod, safe="")
        return f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"


async def forward(api: KubeApi, to: PodPort, sock: socket.socket) -> None:
    """Carry bytes between `sock`, which is closed in the end, and the pod, until either side ends.

    Raises `KubeError`: the API server refused, or the kubelet says that nobody listens there.
    """
    taken = False
    try:
        async with api.websocket(to.path, {"ports": str(to.port)}, PROTOCOL) as messages:
            reader, writer = await asyncio.open_connection(sock=sock)
            taken = True
            failure = await _carry(reader, writer, messages)
    finally:
        if not taken:
            sock.close()
    if failure:
        raise KubeError(failure)


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    messages: aiohttp.ClientWebSocketResponse,
) -> str:
    """Carry until the end; what the kubelet had to say about it."""
    try:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(reader, messages))
            failure = await _receive(messages, writer)
            sending.cancel()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return failure


async def _send(reader: asyncio.StreamReader, to: aiohttp.ClientWebSocketResponse) -> None:
    with suppress(ConnectionError):  # whichever side is gone, it is over
        while data := await reader.read(CHUNK_BYTES):
            await to.send_bytes(bytes((DATA,)) + data)
        await to.close()


async def _receive(messages: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> str:
    greeted: set[int] = set()
    async for message in messages:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel not in greeted:
            greeted.add(channel)
            data = data[PORT_BYTES:]
        if channel == ERROR and data:
            return str(data.decode(errors="replace")).strip()
        if channel == DATA and data and not await _write(writer, data):
            break
    return ""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Hand over data; whether there is still somebody who wants it."""
    try:
        writer.write(data)
        await writer.drain()
    except ConnectionError:
        return False
    return True
