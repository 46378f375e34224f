"""Traffic policies and gRPC, with grpcio on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc
import pytest

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.traffic import Fault, OutlierDetection, RateLimit, RetryPolicy, TrafficPolicy
from tests.contract.http1.stage import Stage, run, stage
from tests.contract.waypoint.test_traffic_policy import POLICY, under

Method = Callable[[bytes, grpc.ServicerContext], bytes]
PROXY_OFF = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


@contextmanager
def server(method: Method) -> Iterator[SocketAddress]:
    """A server of one method."""
    made = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(method)}
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    try:
        yield SocketAddress(parse_ip("127.0.0.1"), port)
    finally:
        made.stop(None).wait()


def calls(policy: TrafficPolicy, count: int, *methods: Method) -> tuple[list[str], Stage]:
    """Make calls through the proxy; the names of their statuses, and the stage."""
    stages: list[Stage] = []
    statuses: list[str] = []

    def work(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", PROXY_OFF) as channel:
            call = channel.unary_unary("/t.T/Do")
            for _ in range(count):
                try:
                    call(b"x", timeout=10)
                except grpc.RpcError as error:
                    statuses.append(error.code().name)
                else:
                    statuses.append("OK")

    with ExitStack() as stack:
        addresses = tuple(stack.enter_context(server(method)) for method in methods)

        async def main() -> None:
            async with stage(addresses=addresses, router=under(policy)) as here:
                stages.append(here)
                await asyncio.to_thread(work, here.port_h2)

        run(main())
    return statuses, stages[0]


class Counted:
    """A method that counts its calls, and fails or not."""

    def __init__(self, code: grpc.StatusCode | None = None) -> None:
        self.calls = 0
        self._code = code

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self._code is not None:
            context.abort(self._code, "no")
        return request


def test_an_answer_without_a_message_is_tried_again_where_the_policy_names_it() -> None:
    bad, good = Counted(grpc.StatusCode.UNAVAILABLE), Counted()
    retry = RetryPolicy(attempts=2, grpc_codes=frozenset({14}))
    statuses, here = calls(replace(POLICY, retry=retry), 12, bad, good)
    assert statuses == ["OK"] * 12
    assert bad.calls > 0
    assert good.calls == 12
    assert {record.tries for record in here.records} == {1, 2}


def test_without_that_a_call_is_never_repeated() -> None:
    bad = Counted(grpc.StatusCode.UNAVAILABLE)
    retry = RetryPolicy(attempts=2, codes=frozenset({503}))
    statuses, _ = calls(replace(POLICY, retry=retry), 4, bad)
    assert statuses == ["UNAVAILABLE"] * 4
    assert bad.calls == 4


def test_a_server_whose_answers_are_tried_again_is_judged_too() -> None:
    bad, good = Counted(grpc.StatusCode.UNAVAILABLE), Counted()
    policy = replace(
        POLICY,
        retry=RetryPolicy(attempts=2, grpc_codes=frozenset({14})),
        outlier_detection=OutlierDetection(consecutive_failures=2, base_ejection_s=60),
    )
    statuses, _ = calls(policy, 20, bad, good)
    assert statuses == ["OK"] * 20
    assert bad.calls == 2


@pytest.mark.parametrize(
    ("code", "ejected"),
    [(grpc.StatusCode.INTERNAL, True), (grpc.StatusCode.INVALID_ARGUMENT, False)],
)
def test_the_status_of_calls_judges_the_server(code: grpc.StatusCode, ejected: bool) -> None:
    bad, good = Counted(code), Counted()
    judge = OutlierDetection(consecutive_failures=2, base_ejection_s=60)
    calls(replace(POLICY, outlier_detection=judge), 40, bad, good)
    assert (bad.calls == 2) is ejected


def test_what_the_proxy_says_itself_is_a_grpc_status() -> None:
    good = Counted()
    limit = RateLimit(requests=2, per_s=3600, burst=2)
    statuses, here = calls(replace(POLICY, rate_limits=(limit,)), 4, good)
    assert statuses == ["OK", "OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
    assert [record.grpc_status for record in here.records] == [0, 0, 8, 8]
    fault = Fault(grpc_status=9, abort_percent=100)
    statuses, _ = calls(replace(POLICY, faults=(fault,)), 1, good)
    assert statuses == ["FAILED_PRECONDITION"]
    fault = Fault(http_status=503, abort_percent=100)
    statuses, _ = calls(replace(POLICY, faults=(fault,)), 1, good)
    assert statuses == ["UNAVAILABLE"]
