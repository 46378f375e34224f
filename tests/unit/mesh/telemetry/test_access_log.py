"""The access log: fields, escaping, and a writer that never holds up its caller."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.telemetry.access_log import AccessLog, LogFormat, format_json, format_text
from tests.unit.mesh.telemetry.records import BASE, denied
from tests.unit.mesh.telemetry.test_metrics import Clock

NOTICE = re.compile(r"(\d+) connections")


def test_a_complete_connection_as_text() -> None:
    assert format_text(BASE) == (
        "2023-11-14T22:13:20.250000Z info access connection complete"
        ' src.addr="10.0.0.1:40000" src.workload="cart-1" src.namespace="shop"'
        ' src.identity="spiffe://cluster.local/ns/shop/sa/cart"'
        ' dst.addr="[fd00::2]:8080" dst.hbone_addr="10.0.1.2:15008" dst.service="bank/pay"'
        ' dst.workload="pay-1" dst.namespace="bank"'
        ' dst.identity="spiffe://cluster.local/ns/bank/sa/pay"'
        ' direction="outbound" path="hbone" mutual_tls=true'
        ' bytes_sent=100 bytes_recv=2000 duration_ms=250.0 flag="-"'
    )


def test_a_denied_connection_as_json() -> None:
    line = json.loads(format_json(denied()))
    assert line["level"] == "error"
    assert line["message"] == "connection denied"
    assert line["direction"] == "inbound"
    assert line["flag"] == "DENY"
    assert line["policy"] == "AuthorizationPolicy bank/only-cart rule[0]"
    assert "dst.hbone_addr" not in line


@given(st.text())
def test_no_text_of_a_peer_breaks_a_line(text: str) -> None:
    record = replace(BASE, detail=text)
    for line in (format_text(record), format_json(record)):
        assert line.isascii()
        assert line.isprintable()
    assert json.loads(format_json(record)).get("error", "") == text


def test_off_writes_nothing() -> None:
    written: list[str] = []
    log = AccessLog(written.append, LogFormat.OFF, now=Clock())
    log.record(BASE)
    log.close()
    assert (written, log.dropped) == ([], 0)


@pytest.mark.parametrize("log_format", [LogFormat.TEXT, LogFormat.JSON])
def test_lines_beyond_the_rate_are_dropped_and_counted(log_format: LogFormat) -> None:
    written: list[str] = []
    clock = Clock()
    log = AccessLog(written.append, log_format, now=clock, rate_per_s=2)
    for _ in range(5):
        log.record(BASE)
    assert log.dropped == 3
    clock.now += 1
    log.record(BASE)
    log.close()
    lines = "".join(written).splitlines()
    assert sum("connection complete" in line for line in lines) == 3
    notices = [line for line in lines if "were not logged" in line]
    assert sum(int(count) for line in notices for count in NOTICE.findall(line)) == 3


def test_a_stuck_output_does_not_hold_up_the_caller() -> None:
    stuck = threading.Event()
    started = threading.Event()

    def write(_line: str) -> None:
        started.set()
        stuck.wait()

    log = AccessLog(write, LogFormat.TEXT, now=Clock(), queue_lines=2)
    log.record(BASE)
    assert started.wait(30)
    for _ in range(4):
        log.record(BASE)
    assert log.dropped == 2
    log.close(timeout_s=0.01)
    stuck.set()


def test_an_output_that_fails_counts_its_lines() -> None:
    def write(_line: str) -> None:
        raise BrokenPipeError

    log = AccessLog(write, LogFormat.TEXT, now=Clock())
    log.record(BASE)
    log.close()
    assert log.dropped == 1
