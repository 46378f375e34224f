"""Requests to one API server, with errors as `KubeError`.

Bodies are bytes: whoever asks decodes the fields it needs, where a generated client decodes all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType

import aiohttp
import msgspec

from mesh.errors import ConfigError
from mesh.sources.kubernetes.access import ApiAccess
from mesh.sources.kubernetes.errors import KubeError

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
MAX_LINE_BYTES = 32 * 1024 * 1024
"""An event holds one object; etcd takes 1.5 MiB, JSON of bytes may be four times that."""
READ_BUFFER_BYTES = 2 * 1024 * 1024
"""Larger than most events: a list of thousands of pods is read in few steps."""
MAX_ERROR_BYTES = 64 * 1024
WEBSOCKET_CLOSE_S = 1.0
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

# A server that vanished without a word is noticed after 30 + 3 * 10 s.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class _Status(msgspec.Struct, frozen=True):
    """metav1.Status, as far as it is of use."""

    message: str = ""
    reason: str = ""


class KubeApi:
    """One API server. An async context manager: what it opens, it closes."""

    def __init__(self, access: ApiAccess, *, user_agent: str = "meshnode") -> None:
        self._access = access
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> KubeApi:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._access.tls or True),
            # Proxies of the environment.
            trust_env=True,
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        """Make a request and return the answer's body. Raises `KubeError`."""
        limits = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S)
        async with self._open(method, path, query or {}, limits, body, content_type) as response:
            return await response.read()

    async def lines(
        self, path: str, query: Mapping[str, str], *, idle_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer that goes on; end when the server ends it.

        The first line is empty: the server has accepted the request.

        Args:
            idle_s: longest silence before the connection counts as lost.

        Raises `KubeError`, also for a connection that breaks in the middle.
        """
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=idle_s)
        async with self._open("GET", path, query, limits, None, JSON) as response:
            _watch_for_a_dead_server(response)
            yield b""
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise KubeError(f"{path}: an event of more than {MAX_LINE_BYTES} bytes")
                for line in lines:
                    if line:
                        yield line

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Mapping[str, str], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket that speaks `protocol`. Raises `KubeError`."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                socket = await self._session.ws_connect(
                    f"{self._access.server}{path}",
                    params=query,
                    # The container runtime's server knows of no media type, and refuses any.
                    headers={**await self._headers(""), "Accept": "*/*"},
                    protocols=(protocol,),
                    proxy=self._access.proxy,
                    server_hostname=self._access.server_name,
                    timeout=aiohttp.ClientWSTimeout(ws_close=WEBSOCKET_CLOSE_S),
                    max_msg_size=0,
                )
        except TimeoutError as error:
            raise KubeError(f"GET {path}: no answer in time") from error
        except aiohttp.WSServerHandshakeError as error:
            text = f"GET {path}: HTTP {error.status} instead of a WebSocket"
            raise KubeError(text, status=error.status) from error
        except (aiohttp.ClientError, ConfigError, OSError) as error:
            raise KubeError(f"GET {path}: {str(error) or type(error).__name__}") from error
        async with socket:
            if socket.protocol != protocol:
                raise KubeError(f"GET {path}: the server does not speak {protocol}")
            yield socket

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        body: bytes | None,
        content_type: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(
                method,
                f"{self._access.server}{path}",
                params=query,
                data=body,
                headers=await self._headers(content_type if body is not None else ""),
                timeout=limits,
                proxy=self._access.proxy,
                server_hostname=self._access.server_name,
                # A redirect would carry the token to wherever it points.
                allow_redirects=False,
            ) as response:
                if response.status >= 300:
                    raise await _failure(method, path, response)
                yield response
        except TimeoutError as error:
            raise KubeError(f"{method} {path}: no answer in time") from error
        except (aiohttp.ClientError, ConfigError, OSError) as error:
            text = str(error) or type(error).__name__
            raise KubeError(f"{method} {path}: {text}") from error

    async def _headers(self, content_type: str) -> dict[str, str]:
        # The keys of service accounts are of a media type of their own.
        headers = {"Accept": f"{JSON}, */*", "User-Agent": self._user_agent}
        if content_type:
            headers["Content-Type"] = content_type
        authorization = await self._access.authorization()
        if authorization:
            headers["Authorization"] = authorization
        return headers


def _watch_for_a_dead_server(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is not None:
        for level, option, value in _KEEPALIVE:
            sock.setsockopt(level, option, value)


async def _failure(method: str, path: str, response: aiohttp.ClientResponse) -> KubeError:
    body = await response.content.read(MAX_ERROR_BYTES)
    try:
        status = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A proxy or load balancer in between answers in its own way.
        status = _Status(message=response.reason or "")
    return KubeError(
        f"{method} {path}: HTTP {response.status} {status.message}".rstrip(),
        status=response.status,
        reason=status.reason,
        retry_after_s=_seconds(response.headers.get("Retry-After", "")),
    )


def _seconds(text: str) -> float:
    """Read Retry-After; the form with a date is not used by API servers."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0.0
