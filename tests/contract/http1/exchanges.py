"""What the tests of exchanges speak with: raw requests, and a router of one rule."""

from __future__ import annotations

import asyncio

from mesh.http1.message import RequestHead
from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import PORT, Stage
from waypoint.contract import Origin
from waypoint.routing.plan import Forward, Reply
from waypoint.upstream.endpoints import Endpoints

GET = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
NOBODY = SocketAddress(parse_ip("127.0.0.1"), 1)


class FixedRouter:
    """Forwards everything to the service, with one set of rules."""

    def __init__(self, endpoints: Endpoints, **rules: object) -> None:
        self._endpoints = endpoints
        self._rules = rules

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        assert origin.service is not None
        group = self._endpoints.service(origin.service.key, PORT, 4)
        assert group is not None
        return Forward(group=group, **self._rules)  # type: ignore[arg-type] # the test's own


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a request with a length or chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" in head:
        return head, await reader.readuntil(b"0\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length: "):
            length = int(line[16:])
    return head, await reader.readexactly(length)


def one_record(here: Stage) -> tuple[int, str, str]:
    (record,) = here.records
    return record.status, str(record.flag), record.details
