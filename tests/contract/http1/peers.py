"""How others read the same bytes: h11 in memory, nginx over a socket.

Each reading is the list of requests that were taken as complete, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

import h11

from tests.contract.http1.stage import Handler

CONCURRENT = 32


@dataclass(frozen=True, slots=True)
class Read:
    """One complete request; `tail` is the target's last segment, which no normalisation moves."""

    method: bytes
    tail: bytes
    body: bytes


def _begun(request: h11.Request) -> Read:
    return Read(bytes(request.method), bytes(request.target).rpartition(b"/")[2], b"")


def read_with_h11(data: bytes) -> list[Read]:
    """What h11's server side makes of bytes."""
    link = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    link.receive_data(data)
    link.receive_data(b"")
    found: list[Read] = []
    begun = Read(b"", b"", b"")
    while True:
        try:
            event = link.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Request):
            begun = _begun(event)
        elif isinstance(event, h11.Data):
            begun = replace(begun, body=begun.body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            found.append(begun)
            try:
                link.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                link.send(h11.EndOfMessage())
                link.start_next_cycle()
            except h11.LocalProtocolError:
                return found  # the connection ends with this request
        else:
            return found


def noting(found: list[Read]) -> Handler:
    """A server that notes complete requests, as a proxy forwards them, and answers what it got
    in a field, which HEAD does not take away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = h11.Connection(h11.SERVER)
        begun = Read(b"", b"", b"")
        while True:
            try:
                event = link.next_event()
            except h11.RemoteProtocolError:
                return  # the proxy cut a request that its client had cut
            if event is h11.NEED_DATA:
                link.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                begun = _begun(event)
            elif isinstance(event, h11.Data):
                begun = replace(begun, body=begun.body + bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                found.append(begun)
                got = b"/".join(
                    (begun.method, begun.tail.hex().encode(), begun.body.hex().encode())
                )
                fields = [(b"content-length", b"0"), (b"x-got", got + b"/")]
                writer.write(link.send(h11.Response(status_code=200, headers=fields)) or b"")
                link.send(h11.EndOfMessage())
                if link.our_state is not h11.DONE:
                    return
                link.start_next_cycle()
            else:
                return

    return serve


NGINX = """\
client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s; lingering_timeout 1s;
location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; }}
"""


async def read_with_nginx(port: int, cases: Iterable[bytes]) -> list[list[Read]]:
    """What nginx makes of each case, from the answers of the server behind it."""
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(data: bytes) -> list[Read]:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                answers = await reader.read()
            except ConnectionError:
                answers = b""  # nginx closed on bytes that it had not read
            finally:
                writer.close()
            return _answered(answers)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(data)) for data in cases]
    return [task.result() for task in running]


def _answered(answers: bytes) -> list[Read]:
    """Requests that reached the server behind nginx, up to nginx' own first complaint."""
    found: list[Read] = []
    for head in answers.split(b"\r\n\r\n"):
        got = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-got: ")]
        if not got:
            continue
        method, tail, body, _ = got[0][len("x-got: ") :].split(b"/")
        found.append(Read(method, bytes.fromhex(tail.decode()), bytes.fromhex(body.decode())))
    return found
