"""Where an API server is and how we prove who we are, and what Kubernetes tells every pod of it.

A pod's own account is read here and not by kubernetes-asyncio: importing that library takes 40 MB
and a quarter of a second in each agent and controller, for a model of every object there is.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigError

ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REFRESH_S = 60.0
"""The kubelet renews a token when a fifth of its hour is left; client-go looks as often as we."""


async def no_authorization() -> str:
    """What somebody says who has no credentials."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """An API server, and who we are to it.

    Attributes:
        server: URL without a path.
        authorization: the header `Authorization` of a request made now, empty = none; raises
            `ConfigError` where credentials cannot be had.
        tls: None = the machine's roots.
        server_name: the certificate's, where it is not the URL's host.
        proxy: URL; None = what the environment says.
    """

    server: str
    authorization: Callable[[], Awaitable[str]] = no_authorization
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    proxy: str | None = None


def access_of_pod(
    environment: Mapping[str, str],
    now: Callable[[], float],
    directory: Path = ACCOUNT_DIRECTORY,
) -> ApiAccess:
    """What the service account of the pod we run in may use. Raises `ConfigError`.

    Args:
        environment: of this process; the kubelet puts the server's address there.
        now: monotonic seconds.
        directory: where the account's token and the cluster's roots are mounted.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not (host and port):
        raise ConfigError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    roots = directory / "ca.crt"
    try:
        tls = ssl.create_default_context(cafile=str(roots))
    except OSError as error:
        # `ssl.SSLError` is one of them: a file without a certificate.
        raise ConfigError(f"{roots}: {error.strerror or error}") from error
    return ApiAccess(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        authorization=_TokenFile(directory / "token", now).header,
        tls=tls,
    )


class _TokenFile:
    """A token that somebody else renews in its file."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._token = self._read()
        self._read_at = now()

    async def header(self) -> str:
        if self._now() - self._read_at >= TOKEN_REFRESH_S:
            self._token = self._read()
            self._read_at = self._now()
        return f"Bearer {self._token}"

    def _read(self) -> str:
        # A few hundred bytes of memory (tmpfs): no reason for a thread.
        try:
            token = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} cannot be read: {error}") from error
        if not token:
            raise ConfigError(f"{self._path} is empty")
        return token
