"""Spans to collectors behind TLS: https and grpcs, with an authority of one's own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from mesh.errors import ConfigError
from mesh.telemetry.otlp import open_export
from mesh.telemetry.trace_settings import parse_endpoint
from tests.contract.telemetry.test_otlp import SPAN
from tests.support.certs import TestCa, spiffe
from tests.support.otlp import Collector, collector, grpc_collector

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
CA = TestCa()


def https(folder: Path) -> AbstractContextManager[Collector]:
    own = CA.issue(spiffe("collector"), dns_names=["localhost"]).svid
    (folder / "chain").write_bytes(own.chain_pem)
    (folder / "key").write_bytes(own.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "chain", folder / "key")
    return collector(tls=context)


def grpcs(folder: Path) -> AbstractContextManager[Collector]:
    own = CA.issue(spiffe("collector"), dns_names=["localhost"]).svid
    return grpc_collector(grpc.ssl_server_credentials([(own.key_pem, own.chain_pem)]))


both = pytest.mark.parametrize("running", [https, grpcs])
Running = Callable[[Path], AbstractContextManager[Collector]]


@both
def test_a_span_arrives_where_the_collector_proves_who_it_is(
    tmp_path: Path, running: Running
) -> None:
    root = tmp_path / "root"
    root.write_bytes(CA.bundle().roots_pem)
    with running(tmp_path) as server:
        export = open_export(parse_endpoint(server.url), {}, root)
        export.offer(SPAN)
        assert server.wait_spans(bool)
        export.close()
        assert export.counts.exported == 1


@both
def test_a_collector_of_another_authority_gets_nothing(tmp_path: Path, running: Running) -> None:
    root = tmp_path / "root"
    root.write_bytes(TestCa().bundle().roots_pem)
    with running(tmp_path) as server:
        export = open_export(parse_endpoint(server.url), {}, root)
        export.offer(SPAN)
        export.close(0.5)
        assert export.counts.exported == 0
        assert server.requests == []


@both
def test_authorities_that_cannot_be_read_are_told_of(tmp_path: Path, running: Running) -> None:
    with (
        running(tmp_path) as server,
        pytest.raises(ConfigError, match=r"--otlp-ca .*none: No such file"),
    ):
        open_export(parse_endpoint(server.url), {}, tmp_path / "none")
