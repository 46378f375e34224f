"""Many short connections to one address: counts which server answered, and as whom it saw us.

spread.py ADDRESS PORT COUNT
"""

from __future__ import annotations

import collections
import json
import socket
import sys


def ask(address: str, port: int) -> tuple[str, str]:
    with socket.create_connection((address, port), timeout=30) as sock:
        assert sock.getpeername()[:2] == (address, port)
        with sock.makefile() as lines:
            server, peer = lines.readline().split()
    return server, peer


def main() -> None:
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = [ask(address, port) for _ in range(count)]
    servers = collections.Counter(server for server, _ in answers)
    print(json.dumps({"servers": servers, "seen_as": sorted({peer for _, peer in answers})}))


if __name__ == "__main__":
    main()
