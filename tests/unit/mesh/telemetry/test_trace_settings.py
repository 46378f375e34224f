"""Settings of tracing."""

from __future__ import annotations

import pytest

from mesh.errors import ConfigError
from mesh.telemetry.trace_settings import parse_endpoint, parse_sampling


def test_an_endpoint_gets_its_path() -> None:
    assert parse_endpoint("http://c:4318") == "http://c:4318/v1/traces"
    assert parse_endpoint("https://c/") == "https://c/v1/traces"
    assert parse_endpoint("http://c:4318/own/path") == "http://c:4318/own/path"


def test_grpc_has_a_port_and_no_path() -> None:
    assert parse_endpoint("grpc://c:4317") == "grpc://c:4317"
    assert parse_endpoint("grpcs://[::1]:4317/") == "grpcs://[::1]:4317"


@pytest.mark.parametrize(
    "text", ["c:4318", "ftp://c", "http://", "http://c:x", "http://c:0", "grpc://c", "grpc://c:1/x"]
)
def test_a_bad_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--otlp-endpoint"):
        parse_endpoint(text)


def test_sampling_is_a_percentage() -> None:
    assert parse_sampling("1") == 0.01
    assert parse_sampling("100") == 1.0
    assert parse_sampling("none") is None
    for text in ("-1", "101", "x", "nan", ""):
        with pytest.raises(ConfigError, match="--trace-sampling"):
            parse_sampling(text)
