"""gRPC through the proxy, with grpcio on both sides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import Stage, run, stage

LARGE = 3 << 20


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    return request


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: é")
    raise AssertionError("abort raises")


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def total(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return b"%d" % sum(len(request) for request in requests)


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
    done = futures.Future[None]()
    context.add_callback(lambda: done.set_result(None))
    done.result(timeout=10)
    return b""


@contextmanager
def grpc_server(more: Mapping[str, grpc.RpcMethodHandler]) -> Iterator[SocketAddress]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        **more,
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield SocketAddress(parse_ip("127.0.0.1"), port)
    finally:
        server.stop(None).wait()


def through(
    client: Callable[[grpc.Channel], None],
    *,
    with_server: bool = True,
    **methods: grpc.RpcMethodHandler,
) -> list[Stage]:
    """Run a blocking gRPC client against the proxy; the stage is returned for its records."""
    stages: list[Stage] = []

    async def main(addresses: tuple[SocketAddress, ...]) -> None:
        async with stage(addresses=addresses) as here:
            stages.append(here)

            def work() -> None:
                options = [("grpc.enable_http_proxy", 0)]
                with grpc.insecure_channel(f"127.0.0.1:{here.port_h2}", options) as channel:
                    client(channel)

            await asyncio.to_thread(work)

    if with_server:
        with grpc_server(methods) as address:
            run(main((address,)))
    else:
        run(main(()))
    return stages


def test_unary_with_trailers_and_large_messages() -> None:
    def client(channel: grpc.Channel) -> None:
        call = channel.unary_unary("/t.T/Echo")
        for size in (0, 1, 1000, LARGE):
            answer, outcome = call.with_call(b"x" * size, timeout=10)
            assert len(answer) == size
            assert dict(outcome.trailing_metadata())["x-sum"] == str(size)

    (here,) = through(client)
    assert {record.grpc_status for record in here.records} == {0}
    assert here.records[0].protocol == "HTTP/2"


def test_streaming_in_every_direction() -> None:
    def client(channel: grpc.Channel) -> None:
        got = list(channel.unary_stream("/t.T/Count")(b"200", timeout=10))
        assert got == [b"%d" % number for number in range(200)]
        sent = (b"x" * 10_000 for _ in range(200))
        assert channel.stream_unary("/t.T/Total")(sent, timeout=10) == b"2000000"
        words = [b"a", b"b", b"c"] * 50
        assert list(channel.stream_stream("/t.T/Chat")(iter(words), timeout=10)) == [
            word.upper() for word in words
        ]

    through(client)


def test_status_and_message_of_the_server_pass() -> None:
    def client(channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t.T/Fail")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "not now: é"

    (here,) = through(client)
    assert here.records[0].grpc_status == 9


def test_without_an_endpoint_the_call_is_unavailable() -> None:
    def client(channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t.T/Echo")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no ready endpoint" in caught.value.details()

    (here,) = through(client, with_server=False)
    assert here.records[0].flag == "UH"


def test_a_deadline_cancels_the_call_at_the_server() -> None:
    def client(channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t.T/Hang")(b"", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    (here,) = through(client)
    assert here.proxy.active == 0


def test_a_client_that_cancels_ends_the_call_at_the_server() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(cancelled.set)
        yield b"first"
        begun.set()
        assert cancelled.wait(20)

    def client(channel: grpc.Channel) -> None:
        stream = channel.unary_stream("/t.T/Wait")(b"")
        assert next(stream) == b"first"
        assert begun.wait(20)
        stream.cancel()
        assert cancelled.wait(20)

    (here,) = through(client, Wait=grpc.unary_stream_rpc_method_handler(wait))
    assert here.proxy.active == 0


def test_metadata_of_every_kind_passes() -> None:
    seen: list[tuple[str, str | bytes]] = []

    def note(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.extend(context.invocation_metadata())
        context.send_initial_metadata((("x-early", "1"), ("x-bytes-bin", b"\0\xff")))
        context.set_trailing_metadata((("x-late-bin", b"\xfe\0"),))
        return b""

    def client(channel: grpc.Channel) -> None:
        call = channel.unary_unary("/t.T/Note")
        sent = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\0\x01\xff"))
        _, outcome = call.with_call(b"", timeout=10, metadata=sent)
        assert ("x-early", "1") in outcome.initial_metadata()
        assert ("x-bytes-bin", b"\0\xff") in outcome.initial_metadata()
        assert ("x-late-bin", b"\xfe\0") in outcome.trailing_metadata()

    through(client, Note=grpc.unary_unary_rpc_method_handler(note))
    assert {("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\0\x01\xff")} <= set(seen)
