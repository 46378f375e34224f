"""gRPC for the tests: `python grpc_app.py serve PORT` and `python grpc_app.py call ADDRESS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures

import grpc

OPTIONS = [("grpc.enable_http_proxy", 0)]


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    return request


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


def serve(port: int) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(address: str) -> None:
    with grpc.insecure_channel(address, OPTIONS) as channel:
        answer, outcome = channel.unary_unary("/t.T/Echo").with_call(b"x" * 1_000_000, timeout=10)
        print("echo", len(answer), dict(outcome.trailing_metadata())["x-sum"])
        words = [b"a", b"b", b"c"] * 100
        got = list(channel.stream_stream("/t.T/Chat")(iter(words), timeout=10))
        print("chat", got == [word.upper() for word in words])
        try:
            channel.unary_unary("/t.T/Missing")(b"", timeout=5)
        except grpc.RpcError as error:
            print("missing", error.code().name)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        call(sys.argv[2])
