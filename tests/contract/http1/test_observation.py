"""What is seen of a request is the same whether the codecs serve it or the lane."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from mesh.telemetry.request_log import LogMode, RequestLog
from tests.contract.http1.laned import USE_LANE
from tests.contract.http1.observed import Observed
from tests.contract.http1.stage import Client, Handler, answering, run, stage
from waypoint.telemetry.tap import TapEvent, parse_filter


@pytest.fixture(params=[False, True], ids=["codecs", "lane"])
def lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    """In place of the folder's: most of these tests say themselves whether there is one."""
    token = USE_LANE.set(request.param)
    yield request.param
    USE_LANE.reset(token)


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
FAIL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def get(path: str = "/", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: w", *lines, "", "")).encode("latin-1")


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End in the midst of an answer."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()


@dataclass(frozen=True, slots=True)
class Case:
    request: bytes
    server: Callable[[], Handler] = lambda: answering(OK)
    fails: bool = False


CASES: Mapping[str, Case] = {
    "plain": Case(get("/a/b?c=d")),
    "agent": Case(get("/", "User-Agent: one", "user-agent: two/2 (x)", "X-Request-Id: id-1")),
    "forwarded": Case(get("/", "X-Forwarded-For: 1.2.3.4", "x-forwarded-for: 5.6.7.8, 9.9.9.9")),
    "empty forwarded": Case(get("/", "X-Forwarded-For:", "x-forwarded-for: 5.6.7.8")),
    "bad request id": Case(get("/", "X-Request-Id: not one", "x-request-id: good")),
    "strange bytes": Case(get("/%22", 'User-Agent: "\\ \x85\xe9\t.', "X-Request-Id: a=b")),
    "body": Case(get("/up", "Content-Length: 5", method="POST") + b"12345"),
    "head": Case(get("/h", method="HEAD"), lambda: answering(OK.removesuffix(b"ok"))),
    "not found": Case(
        get("/none"), lambda: answering(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    ),
    "no content": Case(get("/"), lambda: answering(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "failed": Case(get("/f"), lambda: answering(FAIL), fails=True),
    "cut": Case(get("/cut", "X-Request-Id: id-2"), lambda: cut, fails=True),
    "chunked answer": Case(
        get("/c"),
        lambda: answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
}


def reset(client: Client) -> None:
    """Leave so that the other side notices at once; a half-closed client may still wait."""
    sock: socket.socket = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def written(observed: Observed, count: int = 1) -> str:
    """The last of so many lines, once they are there."""
    async with asyncio.timeout(30):
        while len(found := observed.lines()) < count:  # noqa: ASYNC110 - the lane tells nobody
            await asyncio.sleep(0.01)
    return found[count - 1]


async def lines_of(case: Case, mode: LogMode, use_lane: bool) -> list[str]:
    """Of the same request twice: after the first one the lane writes lines by itself."""
    USE_LANE.set(use_lane)
    observed = Observed(log=RequestLog(mode=mode, rate_per_s=None))
    async with stage(case.server(), observed=observed) as here:
        for number in (1, 2):
            async with await here.connect() as client:
                client.send(case.request)
                await client.until(b"\r\n\r\n")
                if case.fails:
                    await client.reader.read(100)
            if mode.has_all or case.fails:
                await written(observed, number)
        if use_lane:
            assert here.lane is not None
            assert here.lane.taken == 2
    return observed.lines()


def like_text(line: str) -> str:
    """Without what differs from one run to the next."""
    line = re.sub(r"^\[[-0-9T:.]+Z\]", "[instant]", line)
    line = re.sub(r'( \d+ \d+) \d+ (\d+|-) "', r'\1 took \2 "', line)
    line = re.sub(r'took \d+ "', 'took some "', line)
    line = re.sub(UUID, "uuid", line)
    return re.sub(r"127\.0\.0\.1:\d+", "upstream", line)


def like_json(line: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(found.pop("start_time")))
    duration, upstream = found.pop("duration"), found.pop("upstream_service_time")
    assert isinstance(duration, float)
    assert duration >= 0
    if upstream is not None:
        assert isinstance(upstream, float)
        assert 0 <= upstream <= duration + 0.001
        found["answered"] = True
    found["request_id"] = re.sub(UUID, "uuid", str(found["request_id"]))
    found["upstream_host"] = re.sub(r":\d+$", "", str(found["upstream_host"]))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_line_is_the_same(name: str) -> None:
    async def main() -> None:
        case = CASES[name]
        for mode, like in ((LogMode.TEXT, like_text), (LogMode.JSON, like_json)):
            codecs = await lines_of(case, mode, use_lane=False)
            lane = await lines_of(case, mode, use_lane=True)
            assert len(codecs) == 2
            assert list(map(like, lane)) == list(map(like, codecs))

    run(main())


@pytest.mark.parametrize("name", CASES)
def test_only_failures_have_a_line_where_only_they_are_wanted(name: str) -> None:
    async def main() -> None:
        case = CASES[name]
        codecs = await lines_of(case, LogMode.ERRORS, use_lane=False)
        lane = await lines_of(case, LogMode.ERRORS, use_lane=True)
        assert len(codecs) == len(lane) == 2 * case.fails
        assert list(map(like_text, codecs)) == list(map(like_text, lane))

    run(main())


def test_a_client_that_leaves_is_logged_as_such(lane: bool) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()

        observed = Observed(log=RequestLog(mode=LogMode.JSON, rate_per_s=None))
        async with stage(hold, observed=observed) as here:
            async with await here.connect() as client:
                client.send(get("/gone"))
                await asyncio.wait_for(asked.wait(), 30)
                reset(client)
            line = json.loads(await written(observed))
            assert (line["response_flags"], line["response_code"]) == ("DC", 0)
            assert line["response_code_details"] == "client disconnected"
            assert line["upstream_service_time"] is None

    run(main())


# --- taps ----------------------------------------------------------------------------------------


def like_event(event: TapEvent) -> TapEvent:
    event = {name: value for name, value in event.items() if name not in ("ended_at", "dst.addr")}
    assert isinstance(event.pop("duration_ms"), float)
    headers = event["headers"]
    assert isinstance(headers, dict)
    headers = {name: re.sub(UUID, "uuid", value) for name, value in headers.items()}
    return event | {"headers": headers, "request_id": headers["x-request-id"]}


async def events_of(query: dict[str, str], use_lane: bool) -> list[TapEvent]:
    USE_LANE.set(use_lane)
    observed = Observed(taps=[parse_filter(1, query)])
    async with stage(answering(OK, OK, FAIL), observed=observed) as here:
        async with await here.connect() as client:
            for path in ("/a", "/b?c", "/a/fails"):
                line = ("X-Tenant: t", "Authorization: Bearer abc", "Content-Length: 0")
                client.send(get(path, *line))
                await client.until(b"\r\n\r\n")
                await client.exactly(2)
        found = observed.events()
        if use_lane:
            assert here.lane is not None
            assert here.lane.taken == 3
            assert here.records == []
    return [like_event(event) for event in found]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 3),
        ({"path": "/a"}, 2),
        ({"path": "/a", "status": "2xx"}, 1),
        ({"status": "503"}, 1),
        ({"method": "POST"}, 0),
        ({"header": "x-tenant:t"}, 3),
        ({"header": "x-tenant:u"}, 0),
        ({"denied": "1"}, 0),
        ({"source": "shop/"}, 3),
    ],
)
def test_a_tap_sees_the_same(query: dict[str, str], count: int) -> None:
    async def main() -> None:
        lane, codecs = await events_of(query, True), await events_of(query, False)
        assert len(lane) == count
        assert lane == codecs

    run(main())


# --- traces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("exports", [False, True])
@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_parent_decides_about_its_trace(lane: bool, exports: bool, flags: str) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        observed = Observed(sampling=0.0, exports=exports)
        context = f"00-{TRACE}-{PARENT}-{flags}"
        async with stage(answering(OK, seen=seen), observed=observed) as here:
            async with await here.connect() as client:
                client.send(
                    get("/t", "TraceState: a=1", f"TraceParent: {context}", "tracestate: b=2")
                )
                await client.until(b"ok")
            spans = observed.spans()
            if lane:
                assert here.lane is not None
                assert here.lane.taken == 1
                assert here.records == []
        head = seen[0].decode()
        assert head.count("traceparent") == 1
        assert re.findall("tracestate: (.*)\r\n", head) == ["a=1", "b=2"]
        if not (exports and flags != "00"):
            assert f"\r\ntraceparent: {context}\r\n" in head
            assert spans == []
            return
        (span,) = spans
        assert (span.trace_id, span.parent_id, span.state) == (TRACE, PARENT, "a=1,b=2")
        assert f"\r\ntraceparent: 00-{TRACE}-{span.span_id}-01\r\n" in head
        assert span.span_id != PARENT
        assert dict(span.attributes)["http.response.status_code"] == 200
        assert span.name == "GET default"

    run(main())


@pytest.mark.parametrize("sampling", [0.0, 1.0, None])
def test_a_new_trace_begins_as_it_is_told(lane: bool, sampling: float | None) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        observed = Observed(sampling=sampling, exports=True)
        async with stage(answering(OK, OK, seen=seen), observed=observed) as here:
            async with await here.connect() as client:
                for _ in range(2):
                    client.send(get())
                    await client.until(b"ok")
            spans = observed.spans()
        found = [re.findall("traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", head.decode())
                 for head in seen]  # fmt: skip
        if sampling is None:
            assert found == [[], []]
            assert spans == []
            return
        ((one, _, flag),), ((other, span, _),) = found
        assert one != other
        assert flag == ("01" if sampling else "00")
        assert len(spans) == (2 if sampling else 0)
        if spans:
            assert (spans[1].trace_id, spans[1].span_id, spans[1].parent_id) == (other, span, "")

    run(main())


@pytest.mark.parametrize(
    "line",
    [
        f"b3: {TRACE}-{PARENT}-1",
        f"traceparent: 00-{'0' * 32}-{PARENT}-01",
        f"traceparent: 01-{TRACE}-{PARENT}-01-more",
        f"traceparent: 00-{TRACE.upper()}-{PARENT}-01",
        "tracestate: a=1",
    ],
)
def test_what_is_no_context_of_w3c_is_served_without_the_lane(line: str) -> None:
    async def main() -> None:
        USE_LANE.set(True)
        async with stage(answering(OK), observed=Observed(sampling=0.0)) as here:
            async with await here.connect() as client:
                client.send(get("/", line))
                await client.until(b"ok")
            assert here.lane is not None
            assert here.lane.taken == 0
            assert len(here.records) == 1

    run(main())


# --- bounds --------------------------------------------------------------------------------------


def test_lines_beyond_the_rate_are_counted_and_said() -> None:
    async def main() -> None:
        USE_LANE.set(True)
        observed = Observed(log=RequestLog(mode=LogMode.TEXT, rate_per_s=4.0))
        async with stage(answering(*[OK] * 9), observed=observed) as here:
            async with await here.connect() as client:
                for _ in range(9):
                    client.send(get())
                    await client.until(b"ok")
            assert here.lane is not None
            here.lane.allow_lines(0)
            *lines, notice = observed.lines()
            assert len(lines) == 2  # half of a second's worth is lent to the lane
            assert notice.startswith("- warn access 7 requests were not logged")
            assert observed.records.lost_lines == 7

    run(main())
