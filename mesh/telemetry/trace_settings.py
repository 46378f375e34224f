"""`--otlp-endpoint` and `--trace-sampling`, checked."""

from __future__ import annotations

from urllib.parse import urlsplit

from mesh.errors import ConfigError

TRACES_PATH = "/v1/traces"
GRPC_SCHEMES = ("grpc", "grpcs")
"""OTLP over gRPC, without and with TLS."""
DEFAULT_SAMPLING = "1"
"""Istio's default, in percent."""


def parse_endpoint(text: str) -> str:
    """Check `--otlp-endpoint` and complete its path. Raises `ConfigError`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--otlp-endpoint {text!r}: {error}") from error
    if parts.scheme in GRPC_SCHEMES and parts.hostname and port and parts.path in ("", "/"):
        return f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        message = "write http://HOST:4318, https://…, grpc://HOST:4317 or grpcs://HOST:4317"
        raise ConfigError(f"--otlp-endpoint {text!r}: {message}")
    if parts.path in ("", "/"):
        return parts._replace(path=TRACES_PATH).geturl()
    return text


def parse_sampling(text: str) -> float | None:
    """Read `--trace-sampling`: a percentage as a share, None for `none`. Raises `ConfigError`."""
    if text == "none":
        return None
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0.0 <= percent <= 100.0:
        raise ConfigError(f"--trace-sampling {text!r}: write a percentage from 0 to 100, or none")
    return percent / 100.0
