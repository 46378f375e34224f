"""Asking external authorizers through the waypoint's own connections.

A provider that is a service of the mesh is reached like any endpoint (HBONE, the waypoint's
identity); another host name by DNS and plain TCP.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from random import Random
from weakref import WeakValueDictionary

from mesh.errors import UpstreamError
from mesh.http1.message import CONNECT, RequestHead
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import Party
from mesh.model.provider import ExternalAuthorizer, ProviderProtocol
from mesh.model.workload import ServiceKey
from waypoint.contract import Origin
from waypoint.security.custom.answer import Answer, Failed, Refusal
from waypoint.security.custom.grpc_check import check_answer, check_body, check_head
from waypoint.security.custom.http_check import HttpCheck
from waypoint.upstream.connect_tls import TlsPeer
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Speaks, Target, TargetKey, choose
from waypoint.upstream.unary import call

MAX_ANSWER_BYTES = 64 * 1024
RESOLVED_S = 30.0
"""Envoy's default refresh of a name."""
TOO_LARGE = 413

Resolve = Callable[[str, int], Awaitable[list[SocketAddress]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there is of a request's body; `whole`: that is all of it."""

    body: bytes
    whole: bool


@dataclass(slots=True)
class _Known:
    targets: tuple[Target, ...]
    until: float


class Authorizers:
    """Asks the providers of one worker; keeps addresses of names between snapshots."""

    def __init__(
        self, pool: Callable[[], Pool], random: Random, resolve: Resolve | None = None
    ) -> None:
        self._pool = pool
        self._random = random
        self._resolve = resolve or resolve_name
        self._names: dict[tuple[str, int, TlsPeer | None], _Known] = {}
        self._secured: WeakValueDictionary[TargetKey, Target] = WeakValueDictionary()
        """Endpoints of the mesh that are asked by TLS."""
        self._checks: dict[ExternalAuthorizer, HttpCheck] = {}

    async def ask(
        self,
        provider: ExternalAuthorizer,
        endpoints: Endpoints,
        origin: Origin,
        head: RequestHead,
        shown: Shown,
    ) -> Answer:
        """Ask about a request; never raises for what the provider does."""
        check = provider.body
        body: bytes | None = None
        if check is not None:
            fits = shown.whole and len(shown.body) <= check.max_bytes
            if not fits and not check.allow_partial:
                return Refusal(status=TOO_LARGE)
            body = shown.body[: check.max_bytes]
        try:
            async with asyncio.timeout(provider.timeout_s):
                return await self._ask(provider, endpoints, origin, head, body)
        except TimeoutError:
            return Failed(detail=f"no answer in {provider.timeout_s:g} s")
        except UpstreamError as error:
            return Failed(detail=str(error))

    async def _ask(
        self,
        provider: ExternalAuthorizer,
        endpoints: Endpoints,
        origin: Origin,
        head: RequestHead,
        body: bytes | None,
    ) -> Answer:
        target = choose(await self._targets(provider, endpoints), self._random, None)
        if target is None:
            raise UpstreamError(f"{provider.service}:{provider.port} has no ready endpoint")
        if provider.protocol is ProviderProtocol.HTTP:
            if head.upgrade == CONNECT:  # a question about it would itself ask for a tunnel
                return Refusal(status=provider.error_status)
            check = self._check(provider)
            sent = body or b""
            whole = await call(
                self._pool(),
                target,
                Speaks.HTTP1,
                check.request(head, sent),
                sent,
                max_bytes=MAX_ANSWER_BYTES,
            )
            return check.answer(whole)
        question = replace(check_head(provider.timeout_s), host=_authority(provider))
        message = check_body(origin, head, body, time.time())
        whole = await call(
            self._pool(), target, Speaks.HTTP2, question, message, max_bytes=MAX_ANSWER_BYTES
        )
        return check_answer(whole, head)

    def _check(self, provider: ExternalAuthorizer) -> HttpCheck:
        check = self._checks.get(provider)
        if check is None:
            if len(self._checks) > 1000:  # providers that were edited often
                self._checks.clear()
            check = self._checks[provider] = HttpCheck(provider)
        return check

    async def _targets(
        self, provider: ExternalAuthorizer, endpoints: Endpoints
    ) -> tuple[Target, ...]:
        name, port = provider.service, provider.port
        services = endpoints.snapshot.services
        key = ServiceKey(name)
        if key not in services:
            key = next((k for k, s in services.items() if s.hostname == name), key)
        tls = _tls_of(provider)
        if key in services:
            group = endpoints.service(key, port, 4)
            targets = group.targets if group is not None else ()
            return targets if tls is None else self._inside(targets, tls)
        if "/" in name:
            return ()
        return await self._outside(name, port, tls)

    def _inside(self, targets: tuple[Target, ...], tls: TlsPeer) -> tuple[Target, ...]:
        """The same endpoints, with connections of their own."""
        found = []
        for target in targets:
            key = replace(target.key, tls=tls)
            known = self._secured.get(key)
            if known is None:
                known = self._secured[key] = Target(key, target.dst)
            found.append(known)
        return tuple(found)

    async def _outside(self, name: str, port: int, tls: TlsPeer | None) -> tuple[Target, ...]:
        now = time.monotonic()
        known = self._names.get((name, port, tls))
        if known is not None and now < known.until:
            return known.targets
        try:
            addresses = await self._resolve(name, port)
        except OSError as error:
            if known is not None:
                return known.targets  # the last good answer
            raise UpstreamError(f"{name} cannot be resolved: {error.strerror}") from error
        old = {target.key.address: target for target in known.targets} if known else {}
        targets = tuple(old.get(address) or _outside(address, tls) for address in addresses)
        self._names[(name, port, tls)] = _Known(targets, now + RESOLVED_S)
        return targets


def _authority(provider: ExternalAuthorizer) -> bytes:
    """A host that is one: `<namespace>/<name>` is written as a name in DNS."""
    host = ".".join(reversed(provider.service.split("/")))
    return f"{host}:{provider.port}".encode()


def _tls_of(provider: ExternalAuthorizer) -> TlsPeer | None:
    tls = provider.tls
    if tls is None:
        return None
    protocol = "h2" if provider.protocol is ProviderProtocol.GRPC else "http/1.1"
    return TlsPeer(server_name=tls.server_name, ca_pem=tls.ca_pem, protocol=protocol)


def _outside(address: SocketAddress, tls: TlsPeer | None) -> Target:
    return Target(TargetKey(address=address, tunnel=None, expected=frozenset(), tls=tls), Party())


async def resolve_name(name: str, port: int) -> list[SocketAddress]:
    """Addresses of a name. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(SocketAddress(parse_ip(str(item[4][0])), port) for item in found))
