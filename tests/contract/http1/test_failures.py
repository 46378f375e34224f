"""Servers and clients that fail in the middle: what is tried again, what is answered."""

from __future__ import annotations

import asyncio

import pytest

from mesh.model.request import RequestFlag
from tests.contract.http1.exchanges import GET, NOBODY, OK, FixedRouter, one_record, read_request
from tests.contract.http1.stage import Handler, answering, run, stage
from waypoint.limits import ProxyLimits
from waypoint.routing.plan import RetryRule


def test_a_body_that_is_cut_is_not_passed_on_as_complete() -> None:
    async def main() -> None:
        cut = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
        async with stage(answering(cut)) as here, await here.connect() as client:
            client.send(GET)
            assert (await client.until(b"\r\n\r\n")).endswith(b"content-length: 10\r\n\r\n")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.exactly(10)
            if here.lane is not None:
                (group,) = here.lane.take()
                assert (group.status, group.flag, group.sent) == (200, "UC", 5)
            else:
                assert one_record(here) == (200, "UC", "http1.cut")

    run(main())


def closing_after(first: bytes, counter: list[int]) -> Handler:
    """Answers one request, then closes when the second one comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        counter.append(1)
        writer.write(first)
        await read_request(reader)
        counter.append(2)

    return serve


def test_a_reused_connection_that_dies_is_retried_once_for_get_and_never_for_post() -> None:
    async def main() -> None:
        counter: list[int] = []
        async with stage(closing_after(OK, counter)) as here, await here.connect() as client:
            client.send(GET)
            await client.until(b"ok")
            client.send(GET)  # arrives on the same connection, which ends; tried on a new one
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200")
            assert here.records[-1].tries == 2
            assert counter == [1, 2, 1]
            client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 1\r\n\r\nx")
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
            assert counter == [1, 2, 1, 2]
            assert here.records[-1].flag is RequestFlag.UPSTREAM_CLOSED

    run(main())


def test_a_request_that_was_never_sent_is_tried_on_another_endpoint_also_a_post() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, body = await read_request(reader)
            assert body == b"hello"
            writer.write(OK)

        for _ in range(4):  # whichever endpoint is chosen first
            async with stage(serve, addresses=(NOBODY,)) as here:
                post = b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhello"
                assert (await here.ask(post)).startswith(b"HTTP/1.1 200")

    run(main())


def test_nobody_there_is_503_uf_and_no_endpoint_is_503_uh() -> None:
    async def main() -> None:
        async with stage(addresses=(NOBODY,)) as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 503")
            assert one_record(here)[:2] == (503, "UF")
        async with stage() as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 503")
            assert one_record(here) == (503, "UH", "no_healthy_upstream")

    run(main())


def test_statuses_of_a_retry_rule_are_hidden_for_idempotent_methods_only() -> None:
    async def main() -> None:
        bad = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
        answers = iter([bad, bad, OK, bad])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                writer.write(next(answers))

        rule = RetryRule(attempts=2, codes=frozenset({503}), backoff_s=0.001, on_failure=True)
        async with stage(serve, router=lambda e: FixedRouter(e, retry=rule)) as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 200")
            assert here.records[-1].tries == 3
            post = b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 1\r\n\r\nx"
            assert (await here.ask(post)).startswith(b"HTTP/1.1 503")
            assert here.records[-1].tries == 1

    run(main())


def test_timeouts_answer_504_and_name_themselves() -> None:
    async def main() -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        rules = {"request_timeout_s": 0.05}
        async with stage(never, router=lambda e: FixedRouter(e, **rules)) as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 504")
            assert one_record(here) == (504, "UT", "response_timeout")
        rules = {"try_timeout_s": 0.05}
        async with stage(never, router=lambda e: FixedRouter(e, **rules)) as here:
            assert (await here.ask(GET)).startswith(b"HTTP/1.1 504")
            assert one_record(here) == (504, "UT", "upstream_per_try_timeout")

    run(main())


def test_slow_heads_and_bodies_are_cut_off() -> None:
    async def main() -> None:
        limits = ProxyLimits(header_timeout_s=0.1, body_timeout_s=0.1, downstream_idle_s=0.1)

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with stage(wait, limits=limits) as here:
            async with await here.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHos")
                assert (await client.read_all()).startswith(b"HTTP/1.1 408")
            async with await here.connect() as client:
                client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\nx")
                assert (await client.read_all()).startswith(b"HTTP/1.1 408")
            async with await here.connect() as client:
                assert await client.read_all() == b""

    run(main())


def test_a_grpc_call_gets_its_error_as_grpc_status() -> None:
    async def main() -> None:
        async with stage() as here:
            answer = await here.ask(
                b"POST /a.B/C HTTP/1.1\r\nHost: w\r\ncontent-type: application/grpc\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            )
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"grpc-status: 14\r\n" in answer
            assert here.records[0].grpc_status == 14

    run(main())


def test_the_client_going_away_ends_the_upstream_request() -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            try:
                await reader.read()
            finally:
                gone.set()

        async with stage(serve) as here:
            async with await here.connect() as client:
                client.send(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\nx")
                await asyncio.sleep(0.05)
            async with asyncio.timeout(2):
                await gone.wait()
            assert one_record(here)[1] == "DC"
            assert here.proxy.active == 0

    run(main())
