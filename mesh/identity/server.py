"""The CA's HTTPS server: who asks is the authenticator's question, what is signed the core's."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import web

from mesh.errors import ConfigError, IdentityError
from mesh.identity import wire
from mesh.identity.arrivals import Arrivals
from mesh.identity.authority import StoredAuthority
from mesh.identity.csr import parse_csr
from mesh.identity.errors import (
    BadRequestError,
    BadTokenError,
    CaUnavailableError,
    RefusedError,
)
from mesh.identity.join import TokenBook
from mesh.identity.rate import NodeRates
from mesh.identity.state_dir import StateDir
from mesh.model.identity import SpiffeId

_log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        node: where it runs; only identities of this node are signed.
        account: namespace and service account of a pod that asks for itself, and gets nothing
            but that; None for a node's agent.
    """

    node: str
    account: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """For limits and logs."""
        return f"{'/'.join(self.account)} on {self.node}" if self.account else self.node

    def may_have(self, identity: SpiffeId) -> bool:
        """Whether it may ask for an identity at all."""
        return self.account in (None, (identity.namespace, identity.service_account))


class Authenticator(Protocol):
    """Tells whom a bearer token speaks for."""

    async def authenticate(self, token: str) -> Caller:
        """Raises `BadTokenError`, or `CaUnavailableError` if it cannot tell."""
        ...


class JoinTokenAuthenticator:
    """Checks join tokens against the state directory; sees new and revoked ones at once."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._book: TokenBook
        self._book, self._version = state_dir.load_tokens()

    async def authenticate(self, token: str) -> Caller:
        try:
            if self._state_dir.token_version() != self._version:
                self._book, self._version = self._state_dir.load_tokens()
        except ConfigError as error:
            _log.error("join tokens cannot be checked: %s", error)
            raise CaUnavailableError("the CA cannot read its join tokens") from error
        return Caller(node=self._book.authenticate(token))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one node may use.

    Attributes:
        per_s, burst: requests of a node; a node that starts fetches all its certificates.
        poll_s: longest wait of a bundle request.
        polls: bundle requests of one node that may wait at once.
        body_s: longest time for a request's body to arrive.
    """

    per_s: float = 20.0
    burst: float = 400.0
    poll_s: float = 30.0
    polls: int = 4
    body_s: float = 10.0


class _TooManyError(Exception):
    def __init__(self, retry_after_s: float) -> None:
        super().__init__("this node asks too often")
        self.retry_after_s = retry_after_s


class CaServer:
    """Serves one authority; `start` and `stop` once each.

    Args:
        arrivals: None where nobody can know of a workload before the authority does.
    """

    def __init__(
        self,
        authority: StoredAuthority,
        authenticator: Authenticator,
        *,
        tls: ssl.SSLContext,
        server_root_pem: bytes,
        limits: ServerLimits,
        arrivals: Arrivals | None = None,
    ) -> None:
        self._authority = authority
        self._authenticator = authenticator
        self._tls = tls
        self._server_root_pem = server_root_pem
        self._limits = limits
        self._arrivals = arrivals
        self._rates = NodeRates(per_s=limits.per_s, burst=limits.burst)
        self._polling: Counter[str] = Counter()
        self._poll_timeouts: set[asyncio.Timeout] = set()
        self._stopping = False
        self._runner: web.AppRunner | None = None
        self.answers: Counter[str] = Counter()
        """Requests for certificates by result: `issued`, `refused`."""

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the kernel chose if 0 was given."""
        app = web.Application(client_max_size=wire.MAX_REQUEST_BYTES, middlewares=[_errors_as_json])
        app.router.add_post(wire.CERTIFICATES_PATH, self._sign)
        app.router.add_get(wire.BUNDLE_PATH, self._bundle)
        app.router.add_get(wire.SERVER_ROOT_PATH, self._server_root)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_S)
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, host, port, ssl_context=self._tls).start()
        except OSError as error:
            await self.stop()
            raise ConfigError(
                f"the CA cannot listen on {host} port {port}: {error.strerror}"
            ) from error
        bound = int(runner.addresses[0][1])
        _log.info("the CA listens on %s port %d", host, bound)
        return bound

    async def stop(self) -> None:
        """Answer the waiting requests, finish the running ones, close. Idempotent."""
        self._stopping = True
        for timeout in self._poll_timeouts:
            timeout.reschedule(asyncio.get_running_loop().time())
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _sign(self, request: web.Request) -> web.Response:
        caller = await self._admit(request)
        asked = await self._read(request)
        csr_pem = asked.csr.encode()
        identity = parse_csr(csr_pem).identity
        if str(identity) != asked.identity:
            raise BadRequestError(
                f"the request names {asked.identity!r}, its signing request {identity}"
            )
        try:
            if not caller.may_have(identity):
                raise RefusedError(f"the token of {caller.name} is not one for {identity}")
            if self._arrivals is not None:
                await self._arrivals.wait(identity, caller.node)
            issued = self._authority.sign(csr_pem, node=caller.node)
        except RefusedError as error:
            _log.warning("refused %s: %s", caller.name, error)
            self.answers["refused"] += 1
            raise
        self.answers["issued"] += 1
        _log.info("issued %s serial %s to %s", identity, issued.serial, caller.name)
        answer = wire.CertificateAnswer(
            chain=issued.chain_pem.decode(), bundle=wire.bundle_answer(self._authority.bundle())
        )
        return _json(200, answer)

    async def _bundle(self, request: web.Request) -> web.Response:
        node = (await self._admit(request)).name
        text = request.query.get("revision", "-1")
        if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdecimal():
            raise BadRequestError("revision must be a number")
        if self._polling[node] >= self._limits.polls:
            raise _TooManyError(self._limits.poll_s)
        self._polling[node] += 1
        try:
            await self._wait_for_change(int(text[:20]))
        finally:
            self._polling[node] -= 1
        return _json(200, wire.bundle_answer(self._authority.bundle()))

    async def _wait_for_change(self, revision: int) -> None:
        if self._stopping:
            return
        try:
            async with asyncio.timeout(self._limits.poll_s) as timeout:
                self._poll_timeouts.add(timeout)
                try:
                    await self._authority.wait_bundle_other_than(revision)
                finally:
                    self._poll_timeouts.discard(timeout)
        except TimeoutError:
            return

    async def _server_root(self, request: web.Request) -> web.Response:
        return web.Response(body=self._server_root_pem, content_type="application/x-pem-file")

    async def _admit(self, request: web.Request) -> Caller:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise BadTokenError("want a join token: Authorization: Bearer mn1...")
        caller = await self._authenticator.authenticate(token)
        retry_after_s = self._rates.take(caller.name, asyncio.get_running_loop().time())
        if retry_after_s:
            raise _TooManyError(retry_after_s)
        return caller

    async def _read(self, request: web.Request) -> wire.CertificateRequest:
        try:
            async with asyncio.timeout(self._limits.body_s):
                body = await request.read()
            return msgspec.json.decode(body, type=wire.CertificateRequest)
        except TimeoutError as error:
            raise BadRequestError("the request's body did not arrive in time") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequestError(f"the request is not the JSON expected: {error}") from error


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadTokenError as error:
        return _failure(401, "bad_token", str(error))
    except BadRequestError as error:
        return _failure(400, "bad_request", str(error))
    except RefusedError as error:
        return _failure(403, "refused", str(error))
    except _TooManyError as error:
        response = _failure(429, "too_many", str(error))
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        return response
    except (IdentityError, CaUnavailableError) as error:
        _log.error("the CA cannot serve: %s", error)
        return _failure(503, "unavailable", str(error))
    except web.HTTPException as error:
        return _failure(error.status, "http", error.reason)


def _failure(status: int, code: str, reason: str) -> web.Response:
    return _json(status, wire.ErrorAnswer(code=code, reason=reason))


def _json(status: int, answer: msgspec.Struct) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(answer), content_type="application/json"
    )
