"""An API server that makes tokens of service accounts and publishes its keys."""

from __future__ import annotations

import json
import time
from http import HTTPStatus

from agent.kubernetes.operator import ISSUER_PATH, KEYS_PATH, OperatorGate
from mesh.model.names import SYSTEM_NAMESPACE
from mesh.run_files import OPERATOR
from mesh.sources.kubernetes.transport import KubeApi
from tests.support.kube_api import KubeApiServer
from tests.support.kube_store import Object, StatusError
from tests.unit.mesh.jwt import issuer

ISSUER = "https://kubernetes.default.svc"
SUBJECT = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{OPERATOR}"
TOKENS = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/serviceaccounts/{OPERATOR}/token"


def account_token(audience: str, **claims: object) -> str:
    """A token as the API server makes it; a claim of None is left out."""
    made = {"iss": ISSUER, "sub": SUBJECT, "aud": [audience], "exp": int(time.time()) + 600}
    kept = {name: value for name, value in {**made, **claims}.items() if value is not None}
    return issuer.token(issuer.signer("RS256", "k1"), kept)


def serve_accounts(
    server: KubeApiServer, *, may_make: bool = True, has_account: bool = True
) -> None:
    """Publish the keys, and make tokens for whoever asks, or refuse to."""

    def make(body: bytes) -> Object:
        if not may_make:
            raise StatusError(403, "Forbidden", "serviceaccounts/token is forbidden")
        if not has_account:
            raise StatusError(404, "NotFound", f"serviceaccounts {OPERATOR!r} not found")
        (audience,) = json.loads(body)["spec"]["audiences"]
        return {"status": {"token": account_token(audience)}}

    keys = json.loads(issuer.jwks(issuer.signer("RS256", "k1")))
    server.extra["GET", ISSUER_PATH] = lambda _: {"issuer": ISSUER}
    server.extra["GET", KEYS_PATH] = lambda _: keys
    server.extra["POST", TOKENS] = make


class GateTo:
    """A gate that opens its connection anew for each check: its loop is another thread's."""

    def __init__(self, server: KubeApiServer, node: str) -> None:
        self._server = server
        self._node = node

    async def check(self, token: str) -> None:
        async with KubeApi(self._server.access) as api:
            await gate_of(api, self._node).check(token)


def gate_of(api: KubeApi, node: str) -> OperatorGate:
    """The gate of a node's agent."""
    return OperatorGate(api, node, SYSTEM_NAMESPACE, now=time.monotonic, clock=time.time)


def open_gate_to(server: KubeApiServer, node: str) -> GateTo:
    """A gate that asks this server."""
    return GateTo(server, node)


def forbid_keys(server: KubeApiServer) -> None:
    """Let the agent not read the keys."""

    def refuse(_: bytes) -> Object:
        raise StatusError(HTTPStatus.FORBIDDEN, "Forbidden", "no")

    server.extra["GET", ISSUER_PATH] = refuse
