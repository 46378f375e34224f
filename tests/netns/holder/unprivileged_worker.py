"""A worker without privilege: takes a vended socket, borrows a client's address, says who it is.

Arguments: channel descriptor, family, source address, application's address and port.
"""

from __future__ import annotations

import os
import socket
import sys

from agent.holder.client import HolderClient
from agent.holder.protocol import Family, SocketKind
from mesh.privilege import drop_privileges, install_seccomp


def main() -> None:
    channel, family, source, host, port = sys.argv[1:]
    drop_privileges(65534, 65534)
    install_seccomp()
    client = HolderClient(socket.socket(fileno=int(channel)))
    with client, client.vend("pod", Family(int(family)), SocketKind.INBOUND, 1)[0] as sock:
        sock.settimeout(10)
        sock.bind((source, 0))
        sock.connect((host, int(port)))
        sock.sendall(f"uid {os.getuid()}".encode())


if __name__ == "__main__":
    main()
