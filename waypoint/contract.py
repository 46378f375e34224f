"""The seams of the data path: downstream codec, exchange, upstream codec, router.

Codecs know one HTTP version and nothing of routes; the exchange knows one request and nothing of
versions. Both directions stream: `*_blocked(True)` says that a peer reads too slowly, and the
exchange then stops the other side. Nothing is called after the call that ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from mesh.http1.message import Headers, RequestHead, ResponseHead
from mesh.model.address import SocketAddress
from mesh.model.connection import Party
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestFlag
from mesh.model.workload import Service, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a client's connection comes from and where it was meant to go.

    Attributes:
        principal: verified identity of the caller.
        client: address of the caller; its port is only for people.
        dialled: what the caller's application connected to (CONNECT's authority).
        service: the service of that address, if it is one; otherwise `workload` is set.
    """

    principal: SpiffeId | None
    client: SocketAddress
    dialled: SocketAddress
    service: Service | None
    workload: Workload | None
    src: Party = field(default_factory=Party)


class FailureKind(Enum):
    """What is known of a try that failed."""

    NEVER_SENT = auto()
    """Not a byte of the request reached a server that would act on it."""
    NO_ANSWER_REUSED = auto()
    """The connection was used before and ended without a byte of an answer: most likely the
    server closed it while idle."""
    MAY_BE_DELIVERED = auto()
    REFUSED = auto()
    """A limit of ours kept it back; another try would meet the same limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    kind: FailureKind
    flag: RequestFlag
    detail: str


class UpstreamStream(Protocol):
    """One request on its way to a server."""

    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def flush(self) -> None:
        """Write what was collected: codecs join small pieces, so that they cost one call."""

    def cancel(self) -> None:
        """Give up; no event follows. Idempotent."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ResponseSink(Protocol):
    """Hears of the answer; the exchange."""

    def informed(self, head: ResponseHead) -> None: ...
    def responded(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers) -> None: ...
    def flush_response(self) -> None:
        """No more of it is at hand now."""

    def upstream_failed(self, failure: Failure) -> None: ...
    def upstream_blocked(self, blocked: bool) -> None: ...


class Downstream(Protocol):
    """The client's side of one exchange."""

    @property
    def protocol(self) -> str:
        """`HTTP/1.1` or `HTTP/2`, for logs."""

    def inform(self, status: int, headers: Headers) -> None: ...
    def respond(self, head: ResponseHead) -> None: ...
    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None:
        """The response is complete; after an upgrade, only its direction."""

    def flush(self) -> None:
        """Write what was collected."""

    def finish(self) -> None:
        """An upgraded exchange is over in both directions."""

    def reset(self) -> None:
        """End the exchange without a proper response."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class RequestSink(Protocol):
    """Hears of the request; the exchange."""

    def begin(self) -> None: ...
    def request_body(self, data: bytes) -> None: ...
    def request_end(self, trailers: Headers) -> None: ...
    def flush_request(self) -> None:
        """No more of it is at hand now."""

    def client_gone(self, flag: RequestFlag, detail: str) -> None: ...
    def client_blocked(self, blocked: bool) -> None: ...


class Exchanges(Protocol):
    """Makes an exchange for each request; what codecs are given."""

    def open(self, downstream: Downstream, head: RequestHead, origin: Origin) -> RequestSink: ...
    def refused(self, origin: Origin, protocol: str, status: int, code: str) -> None:
        """A request that could not be parsed was answered; for the records."""
