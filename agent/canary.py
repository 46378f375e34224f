"""Proves capture from where an application stands: a socket made inside the pod's namespace.

A long-lived child of the node process, in a cgroup below the pods' parent cgroup, so that the same
hooks run for it as for the pods. It reads one request a line from standard input, `NETNS-PATH
ADDRESS PORT OWN[,OWN…]`, connects from inside that namespace, and answers one line: `ok`, or what
went wrong. Only ztunnel answers at the canary addresses; they exist nowhere else. A namespace with
none of the pod's own addresses is not the pod's: to be captured there would prove nothing.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from agent.netns import call_in_netns, open_netns
from mesh.errors import KernelError

ADDRESS_V4 = "192.0.0.8"
ADDRESS_V6 = "100::1"
"""The IPv4 dummy address (RFC 7600) and one of the IPv6 discard prefix (RFC 6666): never real
destinations. ztunnel itself answers a captured connection to them, which proves capture."""
ANSWER = b"meshnode canary\n"
TIMEOUT_S = 3.0


def probe(netns_path: str, address: str, port: int, own: Sequence[str]) -> str:
    """Connect from inside the namespace of the addresses `own`; `ok` or the reason why capture is
    not proved."""

    def dial() -> bytes:
        if not any(map(_is_here, own)):
            raise KernelError(f"the namespace that was found has no address {' or '.join(own)}")
        with socket.create_connection((address, port), timeout=TIMEOUT_S) as sock:
            answer = b""
            while len(answer) < len(ANSWER) and (data := sock.recv(64)):
                answer += data
            return answer

    try:
        netns_fd = open_netns(netns_path)
    except KernelError as error:
        return str(error)
    try:
        answer = call_in_netns(netns_fd, dial)
    except KernelError as error:
        return str(error)
    except OSError as error:
        return f"a connection from inside the pod was not captured: {error}"
    finally:
        os.close(netns_fd)
    return "ok" if answer == ANSWER else f"ztunnel answered {answer!r} to the canary"


def _is_here(address: str) -> bool:
    """Whether this thread's namespace has the address; one that is still checked for duplicates
    counts, though nobody can bind to it yet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        listed = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
        return any(line.startswith(ip.packed.hex()) for line in listed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


def main() -> None:
    """Serve requests until standard input ends. Argument: cgroup directory."""
    cgroup = sys.argv[1]
    with open(f"{cgroup}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    for line in sys.stdin:
        netns_path, address, port, own = line.split()
        answer = probe(netns_path, address, int(port), own.split(","))
        print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
