"""Whom a projected service account token speaks for.

The API server says whose token it is (TokenReview) and which pod it was made for; that pod says on
which node it runs. The agents' own account speaks for its node. Any other speaks for itself alone:
a waypoint gets the certificate of its own service account, where a pod of that account runs.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mesh.identity.errors import BadTokenError, CaUnavailableError
from mesh.identity.server import Caller
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.transport import KubeApi

REVIEWS_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
AUDIENCE = "meshnode-ca"
"""Of the token: one made for the API server or for somebody else is worth nothing here."""
REMEMBER_S = 30.0
"""An agent that starts asks for all its certificates at once; a token revoked is refused soon."""
MAX_REMEMBERED = 10_000
_Answer = TypeVar("_Answer", bound=msgspec.Struct)
_ACCOUNT_PREFIX = "system:serviceaccount:"
_EXTRA = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A service account."""

    namespace: str
    name: str


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: Mapping[str, list[str]] | None = None


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus


class _PodMetadata(msgspec.Struct, frozen=True):
    uid: str


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _PodMetadata
    spec: _PodSpec


class TokenReviewAuthenticator:
    """Asks the API server about tokens (`mesh.identity.server.Authenticator`).

    Args:
        now: monotonic seconds.
    """

    def __init__(self, api: KubeApi, account: Account, *, now: Callable[[], float]) -> None:
        self._api = api
        self._account = account
        self._now = now
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    async def authenticate(self, token: str) -> Caller:
        """The node that the token's pod runs on, and the account unless it is the agents'.

        Raises `BadTokenError`, or `CaUnavailableError` if the API server cannot tell now.
        """
        # Tokens are not kept: what leaks from memory must not be of use.
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and self._now() < known[1]:
            return known[0]
        try:
            user = await self._review(token)
            account = _account_of(user)
            node = await self._node_of(user, account)
        except KubeError as error:
            raise CaUnavailableError(f"the API server cannot check a token: {error}") from error
        itself = None if account == self._account else (account.namespace, account.name)
        caller = Caller(node=node, account=itself)
        self._remember(key, caller)
        return caller

    def _remember(self, key: bytes, caller: Caller) -> None:
        self._known.pop(key, None)
        while len(self._known) >= MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[key] = (caller, self._now() + REMEMBER_S)

    async def _review(self, token: str) -> _User:
        """Let the API server check signature, expiry, audience, and that the pod still exists."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        answer = await self._api.request("POST", REVIEWS_PATH, body=msgspec.json.encode(body))
        status = _decode(answer, _Review).status
        if not status.authenticated:
            raise BadTokenError(f"the API server does not accept the token: {status.error or 'no'}")
        if AUDIENCE not in (status.audiences or ()):
            # A server that knows no audiences accepts any; then so would we.
            raise BadTokenError(f"the token is not for {AUDIENCE}")
        return status.user

    async def _node_of(self, user: _User, account: Account) -> str:
        """Ask the pod itself, by name and uid, where it runs."""
        name, uid = _extra(user, "pod-name"), _extra(user, "pod-uid")
        if not name or not uid or "/" in name:
            raise BadTokenError("the token is not bound to a pod")
        path = f"/api/v1/namespaces/{account.namespace}/pods/{name}"
        try:
            pod = _decode(await self._api.request("GET", path), _Pod)
        except KubeError as error:
            if error.is_missing:
                raise BadTokenError(f"the pod {name} of the token is gone") from error
            raise
        if pod.metadata.uid != uid:
            raise BadTokenError(f"the token is of an earlier pod {name}")
        if pod.spec.service_account_name != account.name:
            raise BadTokenError(f"the pod {name} does not run as the account of its token")
        node, claimed = pod.spec.node_name, _extra(user, "node-name")
        if not node or claimed not in ("", node):
            raise BadTokenError(f"the pod {name} is not on the node that its token names")
        return node


def _account_of(user: _User) -> Account:
    namespace, _, name = user.username.removeprefix(_ACCOUNT_PREFIX).partition(":")
    if not user.username.startswith(_ACCOUNT_PREFIX) or not namespace or "/" in namespace + name:
        raise BadTokenError(f"{user.username} is not a service account")
    return Account(namespace=namespace, name=name)


def _extra(user: _User, name: str) -> str:
    """A claim about the token; the node's name is there from Kubernetes 1.30 on."""
    values = (user.extra or {}).get(f"{_EXTRA}{name}", [])
    return values[0] if len(values) == 1 else ""


def _decode(body: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeError(f"not the answer expected: {error}") from error
