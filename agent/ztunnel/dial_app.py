"""The last leg: from ztunnel to the application, inside the pod's own network namespace."""

from __future__ import annotations

import socket

from agent.holder.protocol import Family, SocketKind
from agent.ztunnel.sockets import SocketSource, connect
from mesh.errors import UpstreamError
from mesh.model.address import IPAddress, SocketAddress
from mesh.model.workload import WorkloadUid


async def dial_application(
    sockets: SocketSource, uid: WorkloadUid, target: SocketAddress, client: IPAddress
) -> socket.socket:
    """Connect to `target` in the pod `uid` so that the application sees `client` as its peer.

    The socket carries IP_TRANSPARENT and a mark from the holder; binding to the client's address
    needs no privilege any more. The port is left to the kernel: keeping the client's own would
    collide with a plaintext connection of the same client to the same port. A pod that connects
    to itself keeps its own address. Raises `UpstreamError`.
    """
    if client.version != target.ip.version:
        raise UpstreamError(f"{client} and {target} are of different address families")
    sock = await sockets.get(uid, Family(target.ip.version), SocketKind.INBOUND)
    try:
        if client != target.ip:
            sock.bind((str(client), 0))
    except OSError as error:
        sock.close()
        raise UpstreamError(f"cannot connect as {client}: {error.strerror}") from error
    await connect(sock, target)
    return sock
