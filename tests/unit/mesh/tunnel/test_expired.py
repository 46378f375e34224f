"""Tunnels past the end of a certificate, on real tunnels."""

from __future__ import annotations

import logging

import pytest

from mesh.tunnel.contract import EndReason
from mesh.tunnel.expired import ExpiredTunnels
from mesh.tunnel.native.engine import NativeTunnelEngine
from tests.support.tunnel import run, tunnel_pair


def test_open_streams_have_a_time_of_grace(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with tunnel_pair(NativeTunnelEngine) as pair:
            pair.connect()
            joined = await pair.join()
            tunnel = await pair.server.up
            expired = ExpiredTunnels(600.0)
            for now in (1000.0, 1005.0):
                expired.retire(tunnel, now, "tunnel of x")
            await pair.client.draining.wait()
            expired.end_overdue(1599.0)
            await joined.near.send(b"still here")
            assert await joined.far.receive_exactly(10) == b"still here"
            assert expired.cut == 0
            expired.end_overdue(1600.0)
            assert (await joined.server.closed).reason is EndReason.TUNNEL_LOST
            assert (await joined.client.closed).reason is EndReason.TUNNEL_LOST
            assert expired.cut == 1

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "tunnel of x: its certificate ended 600 s ago; 1 open connections are cut" in caplog.text


def test_a_tunnel_that_ended_by_itself_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with tunnel_pair(NativeTunnelEngine) as pair:
            pair.connect()
            tunnel = await pair.client.up
            expired = ExpiredTunnels(5.0)
            expired.retire(tunnel, 1000.0, "tunnel of x")
            await pair.client.lost
            expired.forget(tunnel)
            expired.forget(tunnel)
            expired.end_overdue(2000.0)
            assert expired.cut == 0

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "tunnel of x" not in caplog.text
