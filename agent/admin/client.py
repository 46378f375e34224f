"""Asks a running node over its admin socket. Synchronous, for the command line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlencode

from agent.admin.codec import from_json, to_json
from agent.admin.describe import Description, What
from agent.admin.matching import RoutesAnswer, RoutesQuestion
from agent.admin.question import AuthzAnswer, AuthzQuestion
from agent.admin.view import (
    BpfDiff,
    Certificates,
    Connections,
    ErrorBody,
    KernelEntries,
    LogLevel,
    LogRequest,
    LogStatus,
    NodeStatus,
)
from agent.capture.views import KernelTable
from agent.holder.wire import short_address
from mesh.errors import ConfigError, MeshnodeError
from mesh.telemetry.window_answer import Traffic

T = TypeVar("T")

TIMEOUT_S = 10.0
NO_ANSWER = "no_answer"


class AgentNotRunning(MeshnodeError):
    """Nobody answers at the admin socket."""


class AgentForbidden(MeshnodeError):
    """The admin socket belongs to somebody else."""


class AgentRefused(MeshnodeError):
    """The node answered with an error. `code` is the stable word of the answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Way(Protocol):
    """How one agent or waypoint is reached."""

    def open(self, timeout_s: float) -> socket.socket:
        """A fresh connection. Raises `OSError` or `MeshnodeError`."""
        ...

    def explain(self, sock: socket.socket | None, error: Exception) -> MeshnodeError:
        """Why an exchange failed: on its way there, or over this connection."""
        ...


class UnixWay:
    """The admin socket of this machine."""

    def __init__(self, node: str, path: Path) -> None:
        self._node = node
        self._path = path

    def open(self, timeout_s: float) -> socket.socket:
        """Connect to the socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            with short_address(self._path) as name:
                sock.connect(name)
        except OSError:
            sock.close()
            raise
        return sock

    def explain(self, sock: socket.socket | None, error: Exception) -> MeshnodeError:
        """Nobody there, not ours, or no answer."""
        match error:
            case FileNotFoundError() | ConnectionRefusedError():
                return AgentNotRunning(f"no agent is running for node {self._node}")
            case PermissionError():
                return AgentForbidden(f"{self._path} belongs to root: run the command with sudo")
        return AgentRefused(NO_ANSWER, f"the agent of node {self._node} does not answer: {error}")


class _Connection(HTTPConnection):
    """HTTP/1.1 over a connection that a `Way` opens."""

    def __init__(self, way: Way, timeout_s: float) -> None:
        super().__init__("meshnode", timeout=timeout_s)
        self._way = way
        self._timeout_s = timeout_s
        self._opened: socket.socket | None = None

    def connect(self) -> None:
        self.sock = self._opened = self._way.open(self._timeout_s)

    def explain(self, error: Exception) -> MeshnodeError:
        """Why the exchange failed; the connection may have dropped its socket already."""
        return self._way.explain(self._opened, error)


class AdminClient:
    """The admin socket's addresses as methods.

    `way` is the path of an admin socket, or how else it is reached. Every method raises
    `AgentNotRunning`, `AgentForbidden`, or `AgentRefused`.
    """

    def __init__(self, node: str, way: Path | Way, timeout_s: float = TIMEOUT_S) -> None:
        self._way = UnixWay(node, way) if isinstance(way, Path) else way
        self._timeout_s = timeout_s

    def status(self) -> NodeStatus:
        """The node at this instant."""
        return self._get("/v1/status", NodeStatus)

    def config(self) -> dict[str, object]:
        """The node's snapshot as plain JSON."""
        return self._get("/v1/config", dict[str, object])

    def certificates(self) -> Certificates:
        """The certificates in use."""
        return self._get("/v1/certificates", Certificates)

    def connections(self) -> Connections:
        """The open connections."""
        return self._get("/v1/connections", Connections)

    def authz(self, question: AuthzQuestion) -> AuthzAnswer:
        """Would this connection be allowed?"""
        return self._post("/v1/authz", question, AuthzAnswer)

    def routes(self, question: RoutesQuestion) -> RoutesAnswer:
        """Which rule takes this request?"""
        return self._post("/v1/routes", question, RoutesAnswer)

    def describe(self, what: What, name: str) -> Description:
        """What the mesh makes of an object."""
        query = urlencode({"what": str(what), "name": name})
        return self._get(f"/v1/describe?{query}", Description)

    def bpf_diff(self) -> BpfDiff:
        """The kernel's maps against the snapshot."""
        return self._get("/v1/bpf/diff", BpfDiff)

    def ask_ready(self) -> None:
        """Return if a waypoint serves."""
        try:
            self._exchange("GET", "/healthz/ready", None)
        except AgentRefused as error:
            raise AgentRefused("not_ready", "not every worker serves yet") from error

    def traffic(self, seconds: float, *, points: bool = False, about: str = "") -> Traffic:
        """The last `seconds` of traffic."""
        query = urlencode({"seconds": f"{seconds:g}", "points": int(points), "about": about})
        return self._get(f"/v1/traffic?{query}", Traffic)

    @contextmanager
    def stream(self, address: str, **query: str) -> Iterator[Iterator[bytes]]:
        """Lines of live events, until the block ends. An empty line comes every second."""
        connection = _Connection(self._way, self._timeout_s)
        with self._failures(connection):
            connection.request("GET", f"{address}?{urlencode(query)}")
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            yield iter(response.readline, b"")

    def log(self) -> LogStatus:
        """The log level."""
        return self._get("/v1/log", LogStatus)

    def set_log(self, level: LogLevel, token: str = "") -> LogStatus:
        """Change the log level; from afar it takes an operator's token."""
        return self._post("/v1/log", LogRequest(level=level), LogStatus, token)

    def kernel_table(self, table: KernelTable) -> KernelEntries:
        """One listing of the kernel's state, read by the agent."""
        return self._get(f"/v1/bpf/tables/{table}", KernelEntries)

    def waypoint_config(self) -> dict[str, object]:
        """What a waypoint works with, and what it enforces on each service."""
        return self._get("/config_dump", dict[str, object])

    def _get(self, address: str, kind: type[T]) -> T:
        return from_json(self._exchange("GET", address, None), kind)

    def _post(self, address: str, body: object, kind: type[T], token: str = "") -> T:
        return from_json(self._exchange("POST", address, to_json(body), token), kind)

    def _exchange(self, method: str, address: str, body: str | None, token: str = "") -> bytes:
        connection = _Connection(self._way, self._timeout_s)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with self._failures(connection):
            connection.request(method, address, body, headers)
            response = connection.getresponse()
            content = response.read()
        if response.status != 200:
            raise _refusal(response.status, content)
        return content

    @contextmanager
    def _failures(self, connection: _Connection) -> Iterator[None]:
        """Name what went wrong on the way, and close the connection in the end."""
        try:
            yield
        except (OSError, HTTPException) as error:
            raise connection.explain(error) from error
        finally:
            connection.close()


def _refusal(status: int, content: bytes) -> AgentRefused:
    try:
        detail = from_json(content, ErrorBody).error
    except ConfigError:
        return AgentRefused("internal", f"the agent failed (HTTP {status}); its log says why")
    hint = f". {detail.hint}" if detail.hint and detail.hint not in detail.message else ""
    return AgentRefused(detail.code, detail.message + hint)
