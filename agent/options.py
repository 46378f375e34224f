"""Settings of the agent: text of the command line to checked values, once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.admin.view import LogLevel
from mesh.errors import ConfigError
from mesh.model.address import SocketAddress, parse_socket_address
from mesh.telemetry.access_log import LogFormat

DEFAULT_METRICS = "127.0.0.1:15020"
DEFAULT_AGENT_ACCOUNT = "meshnode-system/meshnode-agent"
DEFAULT_CA_PORT = 15012
"""Port of Istio's control plane for certificate requests."""
MAX_WORKERS = 256

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_ACCOUNT = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9.-]{1,253})")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")


class SourceKind(StrEnum):
    """Where the mesh's objects come from."""

    FILE = "file"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOption:
    """`--source file:DIR`."""

    kind: SourceKind
    directory: Path

    def __str__(self) -> str:
        return f"{self.kind}:{self.directory}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOption:
    """`--source kubernetes` in a pod, `--source kubernetes:KUBECONFIG` elsewhere.

    Attributes:
        proc: `--host-proc`: the process file system of the host's pid namespace.
    """

    kubeconfig: Path | None = None
    proc: Path = Path("/proc")

    def __str__(self) -> str:
        colon = f":{self.kubeconfig}" if self.kubeconfig else ""
        return f"{SourceKind.KUBERNETES}{colon}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountName:
    """`NAMESPACE/NAME`."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaServe:
    """`--ca DIR [--ca-listen HOST:PORT]`: this agent holds the certificate authority.

    Without `listen` only this node gets certificates.
    """

    state_dir: Path
    listen: SocketAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaJoin:
    """`--ca-address HOST:PORT --join-token-file FILE`: certificates come from elsewhere.

    Attributes:
        root_file: `--ca-root-file`: the token is a service account's and names no root itself.
    """

    host: str
    port: int
    token_file: Path
    root_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CniOptions:
    """`--cni`: chain the plugin and answer it.

    Attributes:
        timeout_s: how long the start of a pod waits.
        excluded: namespaces whose pods start without the agent.
        plugin: the built program; None = where set-up put it.
    """

    bin_dir: Path
    conf_dir: Path
    timeout_s: float
    excluded: tuple[str, ...] = ()
    plugin: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Everything `meshnode agent` is told.

    Attributes:
        cgroup: parent cgroup of the pods; None = the root of cgroup v2.
        view: where root's processes may ask what the admin socket answers; None = nowhere.
        trust_domain: None = as the mesh's objects say.
        access_log_file: None = standard output.
        drain_timeout_s: how long open connections may go on after a stop or an upgrade.
        expired_grace_s: how long open connections may go on past the end of a certificate.
        otlp_endpoint: where spans go, empty: nowhere; trace_sampling: of which share of
            connections.
        hand_over: stand by for an earlier agent, and leave the workers to a later one.
    """

    node: str
    source: SourceOption | KubernetesOption
    ca: CaServe | CaJoin
    cgroup: Path | None = None
    trust_domain: str | None = None
    workers: int = 1
    metrics: SocketAddress
    view: SocketAddress | None = None
    access_log: LogFormat = LogFormat.TEXT
    access_log_file: Path | None = None
    log_level: LogLevel = LogLevel.INFO
    drain_timeout_s: float = 30.0
    expired_grace_s: float = 600.0
    hand_over: bool = False
    otlp_endpoint: str = ""
    otlp_ca: Path | None = None
    trace_sampling: float = 0.0
    cni: CniOptions | None = None


def parse_source(text: str) -> SourceOption:
    """Parse `file:DIR`; the directory must exist."""
    kind, colon, rest = text.partition(":")
    if kind != SourceKind.FILE or not colon or not rest:
        raise ConfigError(f"--source {text!r}: write file:DIR, or kubernetes[:KUBECONFIG]")
    directory = Path(rest)
    if not directory.is_dir():
        raise ConfigError(f"--source {text}: {rest} is not a directory")
    return SourceOption(kind=SourceKind.FILE, directory=directory.absolute())


def parse_agent_source(text: str, host_proc: str = "/proc") -> SourceOption | KubernetesOption:
    """Parse `file:DIR`, `kubernetes` or `kubernetes:KUBECONFIG`; what is named must exist."""
    kind, colon, rest = text.partition(":")
    if kind != SourceKind.KUBERNETES:
        return parse_source(text)
    proc = Path(host_proc)
    if not (proc / "self").is_symlink():
        raise ConfigError(f"--host-proc {host_proc}: this is no process file system (proc)")
    if not colon:
        return KubernetesOption(proc=proc)
    file = Path(rest)
    if not file.is_file():
        raise ConfigError(f"--source {text}: there is no kubeconfig file {rest!r}")
    return KubernetesOption(kubeconfig=file.absolute(), proc=proc)


def parse_service_account(option: str, text: str) -> ServiceAccountName:
    """Parse `NAMESPACE/NAME`."""
    match = _ACCOUNT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option} {text!r}: write NAMESPACE/NAME of a service account")
    return ServiceAccountName(namespace=match[1], name=match[2])


def parse_cgroup(text: str) -> Path:
    """Parse the path of a cgroup v2 directory."""
    path = Path(text)
    if not (path / "cgroup.procs").is_file():
        raise ConfigError(
            f"--cgroup {text}: not a cgroup v2 directory (it has no cgroup.procs); "
            "see `grep cgroup2 /proc/mounts`"
        )
    return path


def parse_trust_domain(text: str) -> str:
    """Parse a trust domain (SPIFFE-ID §2.1)."""
    if not _TRUST_DOMAIN.fullmatch(text):
        raise ConfigError(
            f"--trust-domain {text!r}: use lower-case letters, digits, '.', '-' and '_'"
        )
    return text


def parse_duration(text: str) -> float:
    """Parse `500ms`, `30s`, `5m`, `1h` or plain seconds to seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a duration: write for example 500ms, 30s or 5m")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_workers(workers: int | None) -> int:
    """Check a number of workers; None = one per core this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0))
    if not 0 < workers <= MAX_WORKERS:
        raise ConfigError(f"--workers {workers}: use 1 to {MAX_WORKERS}")
    return workers


def parse_listen(option: str, text: str) -> SocketAddress:
    """Parse the IP address and port to listen on. Brackets may be around any address: a manifest
    that fills one in does not know its family."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" not in host:
        text = f"{host[1:-1]}:{port}"
    try:
        return parse_socket_address(text)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}, such as 127.0.0.1:15020") from error


@dataclass(frozen=True, slots=True)
class ListenOn:
    """Where to listen; an empty host is every address of both families."""

    host: str
    port: int


def parse_listen_on(option: str, text: str) -> ListenOn:
    """Parse an IP address or `*`, and a port."""
    host, _, port = text.rpartition(":")
    if host == "*":
        return ListenOn("", parse_listen(option, f"0.0.0.0:{port}").port)
    address = parse_listen(option, text)
    return ListenOn(str(address.ip), address.port)


def parse_view(text: str) -> SocketAddress:
    """Parse `--view`: it knows no password, so it is for this machine alone."""
    address = parse_listen("--view", text)
    if not address.ip.is_loopback:
        raise ConfigError(f"--view {text}: only a loopback address, such as 127.0.0.1:15019")
    return address


def parse_ca(
    ca_dir: str | None,
    listen: str | None,
    address: str | None,
    token_file: str | None,
    root_file: str | None = None,
) -> CaServe | CaJoin:
    """Combine the CA options: exactly one of `--ca` and `--ca-address`."""
    if ca_dir is not None and address is not None:
        raise ConfigError("--ca and --ca-address exclude each other: serve the CA, or ask another")
    if root_file is not None and address is None:
        raise ConfigError("--ca-root-file needs --ca-address: it is the root of that CA's server")
    if ca_dir is not None:
        if token_file is not None:
            raise ConfigError("--join-token-file belongs to --ca-address, not to --ca")
        where = parse_listen("--ca-listen", listen) if listen else None
        return CaServe(state_dir=Path(ca_dir).absolute(), listen=where)
    if listen is not None:
        raise ConfigError("--ca-listen needs --ca DIR: only who holds the CA can serve it")
    if address is None:
        raise ConfigError(
            "certificates: give --ca DIR (this agent is the CA) "
            "or --ca-address HOST:PORT with --join-token-file FILE"
        )
    if token_file is None:
        raise ConfigError(
            "--ca-address needs --join-token-file FILE; "
            "`meshnode token create` on the CA's node makes the token"
        )
    if not Path(token_file).is_file():
        raise ConfigError(f"--join-token-file {token_file}: there is no such file")
    if root_file is not None and not Path(root_file).is_file():
        raise ConfigError(f"--ca-root-file {root_file}: there is no such file")
    host, port = _host_and_port(address)
    return CaJoin(
        host=host,
        port=port,
        token_file=Path(token_file).absolute(),
        root_file=Path(root_file).absolute() if root_file else None,
    )


def _host_and_port(text: str) -> tuple[str, int]:
    """Parse `name:port`, `a.b.c.d:port` or `[v6]:port`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdigit()
    if not (colon and host and digits and 0 < int(port) < 65536):
        raise ConfigError(f"--ca-address {text!r}: write HOST:PORT, such as 192.0.2.1:15012")
    return host, int(port)
