"""Connections that are no HTTP: relayed, recorded, and cut when policy changes."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from mesh.policy.judge import NO_POLICY
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.request_log import LogMode, RequestLog
from tests.contract.http1.stage import run
from tests.contract.waypoint.ground import DENIED, ground
from waypoint.feed import Connections, Lines
from waypoint.telemetry.connection_counts import count_connections
from waypoint.telemetry.records import Records


def test_a_connection_is_recorded_with_its_bytes() -> None:
    async def main() -> None:
        async with ground() as here:
            reader, writer = await here.connect()
            writer.write(b"hello")
            assert await reader.readexactly(9) == b"220 HELLO"
            assert len(here.relays) == 1
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await here.ended(1)
            (record,) = here.records
            assert (record.flag, record.reporter) == ("-", "waypoint")
            assert (record.bytes_sent, record.bytes_received) == (5, 9)
            assert record.service == "shop/web"
            assert record.dst.name == "web-1"
            assert record.mutual_tls
            assert len(here.relays) == 0
            assert here.target is not None
            assert here.target.active == 0

    run(main())


def test_a_policy_that_changes_cuts_what_it_forbids() -> None:
    async def main() -> None:
        async with ground() as here:
            reader, writer = await here.connect()
            assert await reader.readexactly(4) == b"220 "
            here.relays.judge_again()
            assert len(here.relays) == 1
            here.verdict = DENIED
            here.relays.judge_again()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            await here.ended(1)
            (record,) = here.records
            assert record.flag == "POLICY_CHANGE"
            assert record.policy == "AuthorizationPolicy shop/no rule[0]"

    run(main())


def test_what_is_refused_is_recorded_too() -> None:
    async def main() -> None:
        async with ground() as here:
            here.verdict = DENIED
            _, writer = await here.connect()
            writer.close()
            here.verdict, here.dead = NO_POLICY, True
            _, writer = await here.connect()
            writer.close()
            here.target = None
            _, writer = await here.connect()
            writer.close()
            assert [record.flag for record in here.records] == ["DENY", "CONNECT", "UH"]
            assert here.records[0].policy == "AuthorizationPolicy shop/no rule[0]"
            assert "nobody there" in here.records[1].detail
            assert len(here.opened) == 3

    run(main())


def test_lines_and_metrics_come_of_it() -> None:
    async def main() -> None:
        async with ground() as here:
            here.verdict = DENIED
            _, writer = await here.connect()
            writer.close()
            (record,) = here.records
            records = Records("Kubernetes", RequestLog(mode=LogMode.JSON), Random(1).random)
            records.ended(record)
            lines, ends = records.take()
            assert isinstance(lines, Lines)
            assert '"direction": "waypoint"' in lines.text
            assert isinstance(ends, Connections)
            registry = CollectorRegistry()
            metrics = MeshMetrics(registry, now=lambda: 0.0)
            count_connections(metrics, ends)
            counts = [
                ("meshnode_policy_denied_total", ("waypoint", "x"), 2),
                ("other", (), 1),
                ("meshnode_policy_denied_total", (), 9),
            ]
            metrics.count_policy(counts)
            text = generate_latest(registry).decode()
            assert "istio_tcp_connections_closed_total{" in text
            assert 'reporter="waypoint"' in text
            denied = 'meshnode_policy_denied_total{policy="x",reporter="waypoint"} 2.0'
            assert denied in text

    run(main())
