"""Lines that the engine writes are those of `mesh.telemetry.request_log`, to the byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from random import Random

import pytest

from mesh.model.connection import Party
from mesh.model.request import RequestRecord
from mesh.telemetry.line_template import Slot, line_template
from mesh.telemetry.request_log import format_json, format_text
from tests.unit.waypoint.lane.test_records import Host
from tests.unit.waypoint.records import record
from waypoint.lane.record import Log, Watch, decode


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as made:
        yield made


ADDRESS = "10.0.0.9"


def strange(random: Random, most: int) -> bytes:
    """Text of a header field, where everything but control characters is allowed."""
    common = b"abc/%20 ._-\"\\\t\x80\xa0\xe9\xff<'&"
    return bytes(random.choice(common) for _ in range(random.randrange(most)))


def packed(found: RequestRecord, sent_forwarded: bytes) -> bytes:
    """The record as the engine keeps it."""
    strings = [
        found.method.encode("latin-1"),
        found.path.encode("latin-1"),
        found.authority.encode("latin-1"),
        found.request_id.encode("latin-1"),
        found.user_agent.encode("latin-1"),
        sent_forwarded,
        b"",
        b"",
        b"",
    ]
    lengths = [*map(len, strings), 0]
    numbers = (1, 2, 3, found.bytes_received, found.bytes_sent)
    times = (found.started_at, found.duration_s, found.upstream_s)
    size = 136 + sum(lengths)
    fixed = struct.pack("=5Q3d4I10I", *numbers, *times, found.status, 0, 1, size, *lengths)
    return fixed + b"".join(strings)


@pytest.mark.parametrize("as_json", [False, True])
def test_every_line_is_the_same(host: Host, as_json: bool) -> None:
    random = Random(11)
    written = format_json if as_json else format_text
    host.engine.watcher.watch(Watch(log=Log.ALL, log_json=as_json))
    for _ in range(1000):
        sent = strange(random, 20)
        chain = f"{sent.decode('latin-1')}, {ADDRESS}" if sent else ADDRESS
        duration = random.choice((0.0, 0.0005, 0.0015, 1.0)) or random.expovariate(3.0)
        one = record(
            method="GET",
            path=f"/{strange(random, 40).decode('latin-1')}",
            authority="web:80",
            request_id="id-1",
            user_agent=strange(random, 40).decode("latin-1"),
            forwarded_for=chain,
            status=random.choice((200, 204, 404, 503)),
            bytes_received=random.randrange(1 << random.randrange(1, 60)),
            bytes_sent=random.randrange(9),
            started_at=random.uniform(0, 4e9),
            duration_s=duration,
            upstream_s=duration * random.random(),
        )
        template = line_template(one, as_json=as_json)
        assert template is not None
        data = packed(one, sent)
        (found,) = decode(data)
        assert found.path.decode("latin-1") == one.path
        line = host.engine.watcher.render_line(template, data)
        assert line.decode("ascii") == f"{written(one)}\n"


def test_what_looks_like_a_mark_has_no_template() -> None:
    assert line_template(record(route="@line-path@"), as_json=True) is None
    found = line_template(record(route="a"), as_json=False)
    assert found is not None
    assert [slot for _, slot in found.parts][-1] is Slot.END
    assert {slot for _, slot in found.parts} == set(Slot)


def test_a_second_line_is_the_engines_own(host: Host) -> None:
    """Until the world changes; then Python is asked again."""
    watcher = host.engine.watcher
    watcher.watch(Watch(log=Log.ALL))
    watcher.allow_lines(99)
    get = b"GET /a HTTP/1.1\r\nHost: w\r\n\r\n"
    host.play(get)
    (first,) = decode(watcher.take_records(9))
    base = record(src=Party(name="c"), forwarded_for=ADDRESS)
    watcher.learn_line(first, base)
    assert watcher.take_lines() == b""
    host.play(get, get)
    assert watcher.take_records(9) == b""
    lines = watcher.take_lines().decode("ascii").splitlines()
    assert len(lines) == 2
    assert '"GET /a HTTP/1.1" 200' in lines[0]
    host.engine.forget()
    host.play(get)
    assert len(list(decode(watcher.take_records(9)))) == 1
    watcher.learn_line(first, replace(base, route="other"))  # the old decision: nobody's
