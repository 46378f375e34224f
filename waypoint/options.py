"""Settings of a waypoint: checked values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigError
from mesh.model.address import SocketAddress
from mesh.telemetry.request_log import RequestLog


@dataclass(frozen=True, slots=True, kw_only=True)
class CaDirectory:
    """`--ca DIR`: sign for ourselves from the state directory of a standalone CA."""

    state_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CaAddress:
    """`--ca-address HOST:PORT --join-token-file FILE [--ca-root-file FILE]`.

    Attributes:
        root_file: the root of the CA's server, where the token is a service account's and says
            nothing about it.
    """

    host: str
    port: int
    token_file: Path
    root_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSource:
    """`--source kubernetes[:KUBECONFIG]`; None = the service account of our pod."""

    kubeconfig: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointOptions:
    """Everything `meshnode waypoint` is told.

    Attributes:
        name: `<namespace>/<name>` of its Gateway.
        service_account: of its pods; the identity is made of it.
        node: the node it runs on, which is what a join token names.
        listen: the HBONE listener.
        view: a loopback address that answers what the admin socket does; None = none.
        expired_grace_s: how long open connections may go on past the end of a certificate.
        otlp_endpoint: where spans go, empty: nowhere.
        otlp_ca: who may have signed the collector's certificate, None: the system's authorities.
        trace_sampling: share of new traces that are sampled, None: none begins here.
    """

    name: str
    service_account: str
    node: str
    source: Path | ClusterSource
    ca: CaDirectory | CaAddress
    listen: SocketAddress
    admin: SocketAddress
    view: SocketAddress | None = None
    workers: int
    access_log: RequestLog
    drain_timeout_s: float
    expired_grace_s: float = 600.0
    otlp_endpoint: str = ""
    otlp_ca: Path | None = None
    trace_sampling: float | None = None


def parse_name(text: str) -> str:
    """Check `<namespace>/<name>`."""
    namespace, slash, name = text.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise ConfigError(f"--name {text!r}: write NAMESPACE/NAME, as the Gateway is called")
    return text
