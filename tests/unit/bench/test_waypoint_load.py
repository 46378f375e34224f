"""What the load generator is told and says; and the configurations of all proxies agree."""

from __future__ import annotations

from pathlib import Path

from bench.waypoint.hbone_envoy import HboneSide, hbone_config
from bench.waypoint.load import HttpLoad, parse_said
from bench.waypoint.objects import ADDRESSES, OWN, PREFIXES, ROUTES, server_pod, snapshot
from bench.waypoint.peers import envoy_config, haproxy_config, nginx_config
from mesh.routing.table import RouteTable
from tests.interop.envoy import Json
from tests.support.certs import TestCa


def test_a_load_as_arguments() -> None:
    load = HttpLoad(path="/x", connections=4, http2=True, streams=2, headers={"te": "trailers"})
    argv = list(load.argv("127.0.0.1", 7, 0.1, 0.5))
    assert argv[0] == "-2"
    assert argv[argv.index("-c") + 1] == "4"
    assert argv[argv.index("-m") + 1] == "2"
    assert argv[argv.index("-s") + 1] == "0.5"
    assert argv[-5:] == ["127.0.0.1", "7", "/x", "te", "trailers"]


def test_what_it_says_as_metrics() -> None:
    said = '{"answered": 12, "per_s": 10.5, "p50_us": 1.5, "p99_us": 2.5, "p999_us": 3.0}'
    assert parse_said(said) == {
        "answered": 12,
        "requests_per_s": 10.5,
        "p50_us": 1.5,
        "p99_us": 2.5,
    }


def test_a_server_in_the_mesh_is_reached_through_its_tunnel() -> None:
    pod = server_pod("127.9.9.9")
    known = snapshot(5, pod)
    endpoints = [endpoint for s in known.services.values() for endpoint in s.endpoints]
    assert {endpoint.workload for endpoint in endpoints} == {pod.uid}
    assert {endpoint.address for endpoint in endpoints} == set(pod.addresses)


def test_envoy_between_tunnels_has_the_same_routes(tmp_path: Path) -> None:
    side = HboneSide(
        listen=("127.0.0.1", 1),
        server=("127.0.0.1", 2),
        application="127.0.0.1:3",
        credentials=TestCa("cluster.local").issue(OWN),
    )
    text = str(hbone_config(side, tmp_path))
    assert text.count("path_separated_prefix") == ROUTES * 2
    assert all(f"{address}:{port}" in text for port, address in ADDRESSES.items())


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
    haproxy = haproxy_config(1, {80: 2, 81: 3})
    assert haproxy.count("use_backend ") == ROUTES * 2
    assert haproxy.count("proto h2") == 2
