"""A request as policy sees it, and what it may be answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.model.address import IPAddress, SocketAddress
from mesh.model.claims import Claims
from mesh.model.identity import SpiffeId
from mesh.model.provider import ExternalAuthorizer
from mesh.model.verdict import RuleRef
from mesh.model.workload import ServiceKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What is known about a request when it is judged.

    Attributes:
        principal: verified identity of the caller; None for plaintext.
        src: where the connection comes from; dst: the service's address and port, as called.
        remote_ip: the client behind trusted proxies (X-Forwarded-For); None = the same as src.
        service: the service that is called; None where the address belongs to none.
        path: normalised, as it is forwarded; a query does not count.
        host: the authority as sent, with its port if it has one.
        headers: names in lower case; a header that came several times is joined by commas.
        claims: of the verified token; None without one.
        sni: name asked for in the client's TLS, empty without.
    """

    principal: SpiffeId | None
    src: SocketAddress
    dst: SocketAddress
    service: ServiceKey | None
    method: str
    path: str
    host: str
    headers: Mapping[str, str] = field(default_factory=dict)
    remote_ip: IPAddress | None = None
    claims: Claims | None = None
    sni: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskProvider:
    """One external authorizer to ask, and the first rule that wants it."""

    provider: ExternalAuthorizer
    decided_by: RuleRef


@dataclass(frozen=True, slots=True, kw_only=True)
class AskProviders:
    """CUSTOM rules match: ask each of these, in order; the first denial ends the request.

    When all agree, judge the request (with the headers they added) by
    `RequestIndex.after_providers`.
    """

    asks: tuple[AskProvider, ...]
