"""A node's side of the CA: `CaClient` over HTTPS, `LocalCa` for the one in this process."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from mesh.errors import IdentityError
from mesh.identity import profiles, wire
from mesh.identity.authority import NumberedBundle, StoredAuthority
from mesh.identity.csr import new_request
from mesh.identity.errors import (
    BadRequestError,
    BadTokenError,
    CaUnavailableError,
    PinMismatchError,
    RefusedError,
)
from mesh.identity.join import parse_token
from mesh.identity.server_tls import (
    SERVER_NAME,
    discovery_context,
    pinned_context,
    root_fingerprint,
)
from mesh.model.credentials import Credentials, TrustBundle
from mesh.model.identity import SpiffeId

REQUEST_TIMEOUT_S = 10.0
POLL_TIMEOUT_S = 45.0
"""Above the server's own 30 s, so that a silent network is told from a quiet CA."""

_Answer = TypeVar("_Answer", bound="msgspec.Struct")

_REFUSALS: dict[int, type[IdentityError]] = {
    400: BadRequestError,
    401: BadTokenError,
    403: RefusedError,
    413: BadRequestError,
}


class LocalCa:
    """The embedded CA as a certificate source; it obeys the same rules as for other nodes."""

    def __init__(self, authority: StoredAuthority, node: str) -> None:
        self._authority = authority
        self._node = node

    async def fetch(self, identity: SpiffeId) -> Credentials:
        request = new_request(identity)
        issued = self._authority.sign(request.csr_pem, node=self._node)
        svid = profiles.check_svid(request, issued.chain_pem)
        return Credentials(svid=svid, bundle=self._authority.bundle().bundle)

    async def watch_bundle(self) -> AsyncIterator[TrustBundle]:
        numbered = self._authority.bundle()
        while True:
            yield numbered.bundle
            numbered = await self._authority.wait_bundle_other_than(numbered.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A service account token that Kubernetes renews in its file, and the CA server's root.

    A join token carries the root's fingerprint with it; this one says nothing about the CA.
    """

    path: Path
    server_root_pem: bytes

    def read(self) -> str:
        """The token of now; raises `CaUnavailableError`, for the file may come back."""
        try:
            return self.path.read_text().strip()
        except OSError as error:
            raise CaUnavailableError(f"{self.path} cannot be read: {error.strerror}") from error


class CaClient:
    """Talks to a CA that a token names; an async context manager that owns its session."""

    def __init__(self, *, host: str, port: int, token: str | TokenFile) -> None:
        """Raises `IdentityError` for a token or root that is not one; connects to nothing yet."""
        self._token = token.strip() if isinstance(token, str) else token
        self._pin = (
            "" if isinstance(self._token, TokenFile) else parse_token(self._token).root_sha256
        )
        self._base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        if isinstance(token, TokenFile):
            self._tls = pinned_context(token.server_root_pem)
        self._newest: NumberedBundle | None = None

    async def __aenter__(self) -> CaClient:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch(self, identity: SpiffeId) -> Credentials:
        request = new_request(identity)
        body = wire.CertificateRequest(csr=request.csr_pem.decode(), identity=str(identity))
        answer = await self._ask(
            "POST", wire.CERTIFICATES_PATH, wire.CertificateAnswer, REQUEST_TIMEOUT_S, body
        )
        svid = profiles.check_svid(request, answer.chain.encode())
        received = _checked(answer.bundle)
        # The watch may have brought a newer one while this answer was on its way.
        if self._newest is None or received.revision >= self._newest.revision:
            self._newest = received
        return Credentials(svid=svid, bundle=self._newest.bundle)

    async def watch_bundle(self) -> AsyncIterator[TrustBundle]:
        revision = -1
        while True:
            path = f"{wire.BUNDLE_PATH}?revision={revision}"
            answer = await self._ask("GET", path, wire.BundleAnswer, POLL_TIMEOUT_S)
            if answer.revision != revision:
                # Taken even if its number went back: the CA's state was restored.
                self._newest = _checked(answer)
                revision = answer.revision
                yield self._newest.bundle

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[_Answer],
        timeout_s: float,
        body: msgspec.Struct | None = None,
    ) -> _Answer:
        if self._tls is None:
            self._tls = await self._discover()
        data = None if body is None else msgspec.json.encode(body)
        status, answer = await self._exchange(method, path, self._tls, timeout_s, data)
        if status != 200:
            raise _failure(status, answer)
        return _decode(answer, kind)

    async def _discover(self) -> ssl.SSLContext:
        """Fetch the server root unchecked, without the token, and hold it against the pin."""
        status, root_pem = await self._exchange(
            "GET", wire.SERVER_ROOT_PATH, discovery_context(), REQUEST_TIMEOUT_S, None
        )
        if status != 200:
            raise _failure(status, root_pem)
        (root, *_) = profiles.load_certificates(root_pem)
        if root_fingerprint(root_pem) != self._pin:
            raise PinMismatchError(
                f"{self._base} is not the CA of the join token: its root has another fingerprint. "
                "Check the address, or create a new token if the CA was set up anew"
            )
        return pinned_context(profiles.to_pem([root]))

    def _bearer(self) -> str:
        return self._token.read() if isinstance(self._token, TokenFile) else self._token

    async def _exchange(
        self, method: str, path: str, tls: ssl.SSLContext, timeout_s: float, data: bytes | None
    ) -> tuple[int, bytes]:
        if self._session is None:
            raise CaUnavailableError("the CA client is closed")
        is_pinned = tls.verify_mode == ssl.CERT_REQUIRED
        headers = {"Authorization": f"Bearer {self._bearer()}"} if is_pinned else {}
        try:
            async with self._session.request(
                method,
                self._base + path,
                data=data,
                headers=headers,
                ssl=tls,
                server_hostname=SERVER_NAME,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=REQUEST_TIMEOUT_S),
            ) as response:
                return response.status, await _read(response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise PinMismatchError(
                f"{self._base} no longer has a certificate under the join token's root"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise CaUnavailableError(f"the CA {self._base} cannot be reached: {reason}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > wire.MAX_ANSWER_BYTES:
            raise CaUnavailableError("the CA's answer is too long")
    return bytes(body)


def _decode(body: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CaUnavailableError(f"the CA's answer is not the JSON expected: {error}") from error


def _checked(answer: wire.BundleAnswer) -> NumberedBundle:
    profiles.load_certificates(answer.roots.encode())
    if not answer.trust_domains:
        raise IdentityError("the CA's trust bundle names no trust domain")
    return wire.numbered_bundle(answer)


def _failure(status: int, body: bytes) -> IdentityError | CaUnavailableError:
    try:
        reason = msgspec.json.decode(body, type=wire.ErrorAnswer).reason
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = f"HTTP status {status}"
    kind = _REFUSALS.get(status)
    return kind(reason) if kind else CaUnavailableError(f"the CA cannot serve now: {reason}")
