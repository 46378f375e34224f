"""The kubelet's side of a forwarded port, as k8s.io/kubelet/pkg/cri/streaming/portforward has it.

WebSocket subprotocol `v4.channel.k8s.io`: two channels for each port asked for, data and errors;
the first message on each is the port's number, little-endian. A pod that does not listen is told of
on the error channel. When the pod's side ends, so does the WebSocket.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import WSMsgType, web

from tests.support.kube_store import StatusError

PROTOCOL = "v4.channel.k8s.io"
Listeners = Mapping[int, int]
"""Port of the pod -> port of this machine's loopback, where the test serves it."""


async def forward_port(request: web.Request, listeners: Listeners) -> web.StreamResponse:
    """Answer `GET …/pods/NAME/portforward?ports=N`."""
    ports = request.query.getall("ports", [])
    if len(ports) != 1 or not ports[0].isdecimal():
        raise StatusError(400, "BadRequest", 'query parameter "ports" is required')
    if request.headers.get("Accept", "*/*") != "*/*":
        # As containerd's server does, which says of no route what it produces.
        raise StatusError(406, "NotAcceptable", "406: Not Acceptable")
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    if PROTOCOL not in [one.strip() for one in offered.split(",")]:
        raise StatusError(403, "Forbidden", f"no protocol of ours among {offered!r}")
    socket = web.WebSocketResponse(protocols=(PROTOCOL,))
    await socket.prepare(request)
    port = int(ports[0])
    for channel in (0, 1):
        await socket.send_bytes(bytes((channel,)) + struct.pack("<H", port))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listeners.get(port, 1))
    except OSError as error:
        text = f"error forwarding port {port} to pod: connection refused ({error.errno})"
        await socket.send_bytes(b"\x01" + text.encode())
        await socket.close()
        return socket
    async with asyncio.TaskGroup() as tasks:
        back = tasks.create_task(_back(reader, socket))
        with suppress(ConnectionError):
            async for message in socket:
                assert message.type is WSMsgType.BINARY
                assert message.data[0] == 0
                writer.write(message.data[1:])
                await writer.drain()
        back.cancel()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return socket


async def _back(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(4096):
            # In two messages: how bytes are cut is not the receiver's to rely on.
            middle = len(data) // 2
            for part in (data[:middle], data[middle:]):
                await socket.send_bytes(b"\x00" + part)
    await socket.close()
