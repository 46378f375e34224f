"""Trace contexts: what comes in, what goes on, and whose span is made."""

from __future__ import annotations

from random import Random

import pytest

from mesh.telemetry.trace_context import Fields, Trace, TraceStarter

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SAMPLED = b"00-%b-%b-01" % (TRACE, SPAN)
UNSAMPLED = b"00-%b-%b-00" % (TRACE, SPAN)
SHORT = b"a3ce929d0e0e4736"


def follow(
    came: Fields, *, sampling: float | None = 1.0, exports: bool = True
) -> tuple[Fields, Trace | None]:
    kept: Fields = []
    trace = TraceStarter(sampling, exports=exports, random=Random(1)).follow(came, kept)
    return kept, trace


def test_a_sampled_context_gets_a_child_and_keeps_its_state() -> None:
    kept, trace = follow([(b"traceparent", SAMPLED), (b"tracestate", b"a=1"), (b"b3", b"0")])
    assert trace is not None
    assert (trace.trace_id, trace.parent_id) == (TRACE.decode(), SPAN.decode())
    assert trace.state == "a=1"
    assert trace.span_id != trace.parent_id
    child = f"00-{trace.trace_id}-{trace.span_id}-01".encode()
    assert kept == [(b"traceparent", child), (b"tracestate", b"a=1")]


@pytest.mark.parametrize(("value", "exports"), [(UNSAMPLED, True), (SAMPLED, False)])
def test_a_context_without_a_span_of_ours_goes_on_as_it_came(value: bytes, exports: bool) -> None:
    came = [(b"traceparent", value), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    assert follow(came, exports=exports) == (came, None)


def test_flags_of_the_future_are_understood() -> None:
    kept, trace = follow([(b"traceparent", b"cc-%b-%b-03-more" % (TRACE, SPAN))])
    assert trace is not None
    assert kept[0][1].startswith(b"00-" + TRACE)
    assert kept[0][1].endswith(b"-01")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        SAMPLED.upper(),
        SAMPLED + b" ",
    ],
)
def test_a_malformed_context_is_replaced(value: bytes) -> None:
    kept, trace = follow([(b"traceparent", value), (b"tracestate", b"a=1")])
    assert trace is not None
    assert trace.parent_id == ""
    assert [name for name, _ in kept] == [b"traceparent"]
    assert TRACE not in kept[0][1]


def test_two_contexts_are_none() -> None:
    kept, trace = follow([(b"traceparent", SAMPLED), (b"traceparent", UNSAMPLED)])
    assert len(kept) == 1
    assert trace is not None
    assert trace.trace_id != TRACE.decode()


@pytest.mark.parametrize(
    ("value", "sampling", "wanted"),
    [
        (b"%b-%b-1" % (TRACE, SPAN), 0.0, b"1"),
        (b"%b-%b-d" % (TRACE, SPAN), 0.0, b"d"),
        (b"%b-%b-1-%b" % (SHORT, SPAN, SPAN), 0.0, b"1"),
        (b"%b-%b" % (TRACE, SPAN), 1.0, b"1"),
    ],
)
def test_b3_in_one_header(value: bytes, sampling: float, wanted: bytes) -> None:
    kept, trace = follow([(b"b3", value)], sampling=sampling)
    assert trace is not None
    assert trace.parent_id == SPAN.decode()
    assert len(trace.trace_id) == 32
    ((name, sent),) = kept
    assert name == b"b3"
    assert sent == b"%b-%b-%b" % (value.split(b"-")[0], trace.span_id.encode(), wanted)


def test_b3_that_is_not_sampled_goes_on() -> None:
    assert follow([(b"b3", b"0")]) == ([(b"b3", b"0")], None)
    value = b"%b-%b-0" % (TRACE, SPAN)
    assert follow([(b"b3", value)]) == ([(b"b3", value)], None)


def test_b3_in_several_headers_loses_its_parent() -> None:
    came = [
        (b"x-b3-traceid", TRACE),
        (b"x-b3-spanid", SPAN),
        (b"x-b3-parentspanid", SPAN),
        (b"x-b3-sampled", b"1"),
    ]
    kept, trace = follow(came)
    assert trace is not None
    assert kept == [
        (b"x-b3-traceid", TRACE),
        (b"x-b3-spanid", trace.span_id.encode()),
        (b"x-b3-sampled", b"1"),
    ]
    kept, trace = follow([*came[:2], (b"x-b3-flags", b"1")], sampling=0.0)
    assert trace is not None
    assert kept[-1] == (b"x-b3-flags", b"1")
    kept, trace = follow([*came[:2], (b"x-b3-sampled", b"0")])
    assert trace is None
    assert kept[1] == (b"x-b3-spanid", SPAN)


def test_malformed_b3_is_replaced_and_a_wish_is_heard() -> None:
    for came in ([(b"b3", b"x")], [(b"x-b3-traceid", b"zz"), (b"x-b3-spanid", SPAN)]):
        kept, trace = follow(came)
        assert [name for name, _ in kept] == [b"traceparent"]
        assert trace is not None
    assert follow([(b"x-b3-sampled", b"0")]) == ([(b"x-b3-sampled", b"0")], None)


def test_a_request_without_context_begins_a_trace() -> None:
    kept, trace = follow([])
    assert trace is not None
    assert kept == [(b"traceparent", f"00-{trace.trace_id}-{trace.span_id}-01".encode())]
    kept, trace = follow([], sampling=0.0)
    assert trace is None
    assert kept[0][1].endswith(b"-00")
    kept, trace = follow([], exports=False)
    assert trace is None
    assert kept[0][1].endswith(b"-01")
    assert follow([], sampling=None) == ([], None)


def test_the_share_that_is_sampled() -> None:
    starter = TraceStarter(0.25, exports=True, random=Random(7))
    found = sum(starter.follow([], []) is not None for _ in range(4000))
    assert 850 < found < 1150
