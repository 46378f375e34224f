"""What a case is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NAMESPACE = "gateway-conformance-mesh"
CONSUMER = "gateway-conformance-mesh-consumer"

_PORTS = """\
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-alt, port: 8080}
  - {name: https, port: 443}
  - {name: tcp, port: 9090}
  - {name: grpc, port: 7070, appProtocol: kubernetes.io/h2c}
  - {name: ws, port: 8082, appProtocol: kubernetes.io/ws}
"""


def services() -> str:
    """The suite's services: `echo` over all versions and one per version."""
    names = ("echo", "echo-v1", "echo-v2", "echo-v3")
    texts = [
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n"
        f"spec:\n  clusterIP: 10.96.7.{number}\n{_PORTS}"
        for number, name in enumerate(names, 1)
    ]
    return "---\n".join(texts)


def route(
    spec: str,
    *,
    kind: str = "HTTPRoute",
    name: str = "mesh",
    namespace: str = NAMESPACE,
    parent: str = "name: echo",
    created: str = "2024-01-01T00:00:00Z",
    generation: int = 1,
) -> str:
    """A route on a service of the suite; `spec` is indented by two."""
    return (
        f"---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}, generation: {generation},"
        f' creationTimestamp: "{created}"}}\n'
        "spec:\n"
        f"  parentRefs: [{{group: '', kind: Service, namespace: {NAMESPACE}, {parent}}}]\n{spec}"
    )


def to(name: str, port: int = 80, more: str = "") -> str:
    """One backendRef, in flow style."""
    return f"{{name: {name}, namespace: {NAMESPACE}, port: {port}{more}}}"


@dataclass(frozen=True, kw_only=True)
class Play:
    """What a backend does with one try: answers, late perhaps, or resets the connection."""

    status: int = 200
    delay_s: float = 0.0
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request. `path` may carry a query; `reply` are headers that the backend sends.

    Attributes:
        pod: the pod whose own address is dialled, instead of a service's.
        plays: what backends do with the first tries.
        upgraded: bytes are echoed through the connection afterwards.
    """

    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = "echo"
    port: int = 80
    caller: str = NAMESPACE
    host: str = "echo"
    reply: tuple[tuple[str, str], ...] = ()
    pod: str = ""
    plays: tuple[Play, ...] = ()
    upgraded: bool = False


@dataclass(frozen=True, kw_only=True)
class Want:
    """What must come of it.

    Attributes:
        backend: service that gets the request; empty where it is answered here.
        path, host: as the backend sees them, None = not looked at.
        sent, absent: headers that the backend gets (folded), and names it must not get.
        headers, unset: the same of the response to the caller.
        mirrors: services that get a copy.
        statuses: where more than one is right.
        tries: requests that backends get, where not one each; -1: any number.
        protocol: that the backend is spoken to in.
    """

    status: int = 200
    statuses: tuple[int, ...] = ()
    tries: int = 0
    protocol: str = ""
    backend: str = ""
    path: str | None = None
    host: str | None = None
    sent: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Share:
    """A distribution over many requests: percent by backend, or by mirror."""

    ask: Ask
    percent: Mapping[str, float]
    requests: int = 500
    tolerance: float = 5.0
    of_mirrors: bool = False


@dataclass(frozen=True, kw_only=True)
class State:
    """A condition that a route must have. `generation` 0: not looked at."""

    type: str
    status: bool
    reason: str
    route: str = f"HTTPRoute/{NAMESPACE}/mesh"
    generation: int = 0


@dataclass(frozen=True, kw_only=True)
class Dial:
    """A connection that is no HTTP; with `sni` it speaks TLS, end to end."""

    service: str = "echo"
    port: int = 9090
    sni: str = ""
    caller: str = NAMESPACE


@dataclass(frozen=True, kw_only=True)
class DialShare:
    """A distribution over many connections: percent by backend."""

    dial: Dial
    percent: Mapping[str, float]
    connections: int = 200
    tolerance: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of the suite.

    Attributes:
        dials: connections, with the backend that they reach; empty where they are closed.
        grants: a gateway's rule on references across namespaces holds.
    """

    name: str
    objects: str
    exchanges: tuple[tuple[Ask, Want], ...] = ()
    dials: tuple[tuple[Dial, str], ...] = ()
    dial_shares: tuple[DialShare, ...] = ()
    shares: tuple[Share, ...] = ()
    states: tuple[State, ...] = ()
    grants: bool = False


def v(number: int, path: str | None = None) -> Want:
    """The request reaches echo-v<number>."""
    return Want(backend=f"echo-v{number}", path=path)


NOT_FOUND = Want(status=404)
REFUSED = Want(status=500)
