"""What wrk and h2load print, as numbers; and the configurations of all proxies agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.waypoint.load import parse_h2load, parse_wrk
from bench.waypoint.objects import ADDRESSES, PREFIXES, ROUTES, snapshot
from bench.waypoint.peers import envoy_config, nginx_config
from mesh.routing.table import RouteTable
from tests.interop.envoy import Json

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   368.50us    1.33ms  32.16ms   97.61%
    Req/Sec    94.94k     9.22k  105.30k    75.00%
  Latency Distribution
     50%  312.00us
     75%    1.50ms
     90%    2.10ms
     99%    1.20s
  188860 requests in 2.00s, 38.01MB read
Requests/sec:  94353.10
Transfer/sec:     18.99MB
"""
H2LOAD = """starting benchmark...
finished in 1.00s, 686.50 req/s, 68.36KB/s
requests: 713 total, 718 started, 713 done, 713 succeeded, 0 failed, 0 errored, 0 timeout
"""


def test_wrk() -> None:
    found = parse_wrk(WRK)
    assert found == {
        "requests": 188860.0,
        "requests_per_s": 94353.1,
        "p50_us": 312.0,
        "p99_us": 1.2e6,
    }


@pytest.mark.parametrize(
    "line",
    ["  Non-2xx or 3xx responses: 7", "  Socket errors: connect 0, read 48, write 0, timeout 0"],
)
def test_failed_requests_are_no_result(line: str) -> None:
    with pytest.raises(RuntimeError, match=r"7|read 48"):
        parse_wrk(f"{WRK}{line}\n")
    with pytest.raises(RuntimeError):
        parse_wrk("unable to connect")


def test_h2load(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"1\t200\t{number}\n" for number in range(100)))
    found = parse_h2load(H2LOAD, log)
    assert found == {"requests": 713.0, "requests_per_s": 686.5, "p50_us": 50.0, "p99_us": 99.0}
    with pytest.raises(RuntimeError):
        parse_h2load(H2LOAD.replace("0 failed", "3 failed"), log)


def test_all_proxies_have_the_same_routes() -> None:
    table = RouteTable.compile(snapshot(1))
    for port in ADDRESSES:
        (service,) = {key for key in snapshot(1).services if key.endswith(str(port))}
        assert len(table.rules(service, port, None)) == ROUTES
    config: Json = envoy_config(1, {80: 2, 81: 3})
    text = str(config)
    assert text.count("path_separated_prefix") == ROUTES * 2
    nginx = nginx_config(1, 2)
    assert all(f"location {prefix} " in nginx for prefix in PREFIXES)
    assert nginx.count("location ") == ROUTES + 1
