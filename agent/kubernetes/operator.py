"""Who may change something of this agent from afar.

The API server forwards a port for everybody who may look, so that a change needs a proof of its
own: a token of the service account `meshnode-operator` with this node's agent as its audience. To
make one is a right of its own (`serviceaccounts/token`); the account may do nothing in the cluster,
and the token is worth nothing anywhere else. It is checked with the keys that the API server
publishes for its tokens, which every service account may read: the agent needs no further right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path

import msgspec

from agent.admin.server import NotAllowed
from mesh.jwt.errors import KeySetError, TokenError
from mesh.jwt.keys import KeySet, parse_key_set
from mesh.jwt.token import UnverifiedToken, parse_token
from mesh.jwt.verify import check_claims, check_signature
from mesh.model.names import SYSTEM_NAMESPACE
from mesh.run_files import OPERATOR, operator_audience
from mesh.sources.kubernetes.access import ACCOUNT_DIRECTORY
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.transport import KubeApi

KEYS_PATH = "/openid/v1/jwks"
ISSUER_PATH = "/.well-known/openid-configuration"
KEEP_KEYS_S = 60.0
"""Whoever may look may also ask in vain; that must not reach the API server each time."""


class _Discovery(msgspec.Struct):
    issuer: str


class OperatorGate:
    """Lets through who holds a token of the operator's account for this node.

    Args:
        now: monotonic seconds; clock: seconds since the epoch.
    """

    def __init__(
        self,
        api: KubeApi,
        node: str,
        namespace: str,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._audience = operator_audience(node)
        self._subject = f"system:serviceaccount:{namespace}:{OPERATOR}"
        self._now = now
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._known: tuple[KeySet, str] | None = None
        self._known_until = 0.0

    async def check(self, token: str) -> None:
        """Return if the token is good. Raises `NotAllowed`, which says why it is not."""
        try:
            parsed = parse_token(token)
            self._check_claims(parsed)
            keys, issuer = await self._keys()
            if parsed.issuer != issuer:
                raise NotAllowed("the token is not of this cluster")
            check_signature(parsed, keys)
        except TokenError as error:
            raise NotAllowed(str(error)) from error
        except (KubeError, KeySetError, msgspec.DecodeError) as error:
            raise NotAllowed(f"the token cannot be checked now: {_reason(error)}") from error

    def _check_claims(self, token: UnverifiedToken) -> None:
        """What costs nothing comes first, and only then what asks the API server."""
        if token.payload.get("sub") != self._subject:
            raise NotAllowed(f"the token is not one of {self._subject}")
        if token.payload.get("exp") is None:
            raise NotAllowed("the token has no end")
        check_claims(token, [self._audience], self._clock())

    async def _keys(self) -> tuple[KeySet, str]:
        async with self._one_at_a_time:
            if self._known is None or self._now() >= self._known_until:
                issuer = msgspec.json.decode(
                    await self._api.request("GET", ISSUER_PATH), type=_Discovery
                ).issuer
                keys = parse_key_set(await self._api.request("GET", KEYS_PATH))
                self._known, self._known_until = (keys, issuer), self._now() + KEEP_KEYS_S
            return self._known


def _reason(error: Exception) -> str:
    if isinstance(error, KubeError) and error.status == HTTPStatus.FORBIDDEN:
        return (
            "the agent may not read the API server's keys; bind the ClusterRole "
            "system:service-account-issuer-discovery to the group system:serviceaccounts"
        )
    return str(error)


async def open_gate(
    kubeconfig: Path | None,
    node: str,
    stack: AsyncExitStack,
    *,
    now: Callable[[], float],
    clock: Callable[[], float],
) -> OperatorGate:
    """A gate with a connection of its own, closed with the stack. Raises `ConfigError`."""
    api = await stack.enter_async_context(KubeApi(await load_configuration(kubeconfig)))
    return OperatorGate(api, node, _own_namespace(), now=now, clock=clock)


def _own_namespace(directory: Path = ACCOUNT_DIRECTORY) -> str:
    """The namespace of the pod we run in; outside of one, that of an installation."""
    try:
        return (directory / "namespace").read_text(encoding="utf-8").strip()
    except OSError:
        return SYSTEM_NAMESPACE
