"""Who may ask for certificates, as the API server and the pods tell it, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest

from controller.kubernetes.token_review import (
    REMEMBER_S,
    REVIEWS_PATH,
    Account,
    TokenReviewAuthenticator,
)
from mesh.identity import wire
from mesh.identity.bootstrap import init_ca
from mesh.identity.csr import new_request
from mesh.identity.directory import SnapshotDirectory
from mesh.identity.errors import BadTokenError, CaUnavailableError
from mesh.identity.host import CaHost
from mesh.identity.server import Caller
from mesh.identity.server_tls import SERVER_NAME, pinned_context
from mesh.identity.state_dir import StateDir
from mesh.model.identity import SpiffeId
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import KubeApi
from mesh.state.reducer import reduce
from tests.support.kube_api import KubeApiServer
from tests.support.kube_store import metadata

ACCOUNT = Account(namespace="meshnode-system", name="meshnode-agent")
TOKEN = "a-projected-token"
POD_UID = "11111111-0000-4000-8000-000000000001"


def agent_pod(**changes: str) -> Mapping[str, object]:
    values = {"uid": POD_UID, "node": "one", "account": ACCOUNT.name} | changes
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent-x", "namespace": ACCOUNT.namespace, "uid": values["uid"]},
        "spec": {"nodeName": values["node"], "serviceAccountName": values["account"]},
    }


def review(**changes: object) -> Mapping[str, object]:
    """What the API server says about a good token of the pod above, with changes."""
    extra = {
        "authentication.kubernetes.io/pod-name": ["agent-x"],
        "authentication.kubernetes.io/pod-uid": [POD_UID],
        "authentication.kubernetes.io/node-name": ["one"],
    }
    given = changes.pop("extra", {})
    assert isinstance(given, dict)
    for name, value in given.items():
        extra[f"authentication.kubernetes.io/{name}"] = value
    username = changes.pop("username", f"system:serviceaccount:{ACCOUNT.namespace}:{ACCOUNT.name}")
    good = {"authenticated": True, "audiences": ["meshnode-ca"]}
    return {**good, "user": {"username": username, "extra": extra}, **changes}


class Clock:
    """Time that a test turns on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def play(
    script: Callable[[KubeApiServer, TokenReviewAuthenticator, Clock], Awaitable[None]],
    status: Mapping[str, object] | None = None,
    pod: Mapping[str, object] | None = None,
) -> None:
    async def run() -> None:
        server, clock = KubeApiServer(), Clock()
        server.reviews[TOKEN] = status or review()
        if pod is not None:
            server.store.create("pods", pod)
        async with server.running(), KubeApi(server.access) as api:
            await script(server, TokenReviewAuthenticator(api, ACCOUNT, now=clock), clock)

    asyncio.run(run())


def test_a_token_speaks_for_the_node_of_its_pod() -> None:
    async def ask(server: KubeApiServer, who: TokenReviewAuthenticator, clock: Clock) -> None:
        assert await who.authenticate(TOKEN) == Caller(node="one")
        assert await who.authenticate(TOKEN) == Caller(node="one")
        assert server.asked(REVIEWS_PATH) == 1
        clock.now_s += REMEMBER_S
        server.reviews.clear()
        with pytest.raises(BadTokenError):
            await who.authenticate(TOKEN)

    play(ask, pod=agent_pod())


def test_before_kubernetes_1_30_a_token_names_no_node() -> None:
    async def ask(_: KubeApiServer, who: TokenReviewAuthenticator, clock: Clock) -> None:
        assert await who.authenticate(TOKEN) == Caller(node="one")

    play(ask, review(extra={"node-name": []}), agent_pod())


@pytest.mark.parametrize(
    ("status", "pod", "reason"),
    [
        (review(authenticated=False, error="expired"), agent_pod(), "expired"),
        (review(audiences=["https://kubernetes.default.svc"]), agent_pod(), "not for meshnode-ca"),
        (review(audiences=None), agent_pod(), "not for meshnode-ca"),
        (review(username="system:serviceaccount:shop:web"), agent_pod(), "is gone"),
        (review(username="system:serviceaccount:meshnode-system:web"), agent_pod(), "run as"),
        (review(username="system:serviceaccount:../x:web"), agent_pod(), "not a service account"),
        (review(username="kubernetes-admin"), agent_pod(), "not a service account"),
        (review(extra={"pod-name": []}), agent_pod(), "not bound to a pod"),
        (review(extra={"pod-name": ["../../secrets"]}), agent_pod(), "not bound to a pod"),
        (review(extra={"pod-uid": ["a", "b"]}), agent_pod(), "not bound to a pod"),
        (review(), None, "is gone"),
        (review(), agent_pod(uid="another"), "of an earlier pod"),
        (review(), agent_pod(account="default"), "does not run as"),
        (review(), agent_pod(node=""), "not on the node"),
        (review(), agent_pod(node="two"), "not on the node"),
    ],
)
def test_any_other_token_speaks_for_nobody(
    status: Mapping[str, object], pod: Mapping[str, object] | None, reason: str
) -> None:
    async def ask(_: KubeApiServer, who: TokenReviewAuthenticator, clock: Clock) -> None:
        with pytest.raises(BadTokenError, match=reason):
            await who.authenticate(TOKEN)

    play(ask, status, pod)


def test_an_api_server_that_is_away_is_no_verdict() -> None:
    async def ask(server: KubeApiServer, who: TokenReviewAuthenticator, clock: Clock) -> None:
        server.faults.failures.append((500, 0.0))
        with pytest.raises(CaUnavailableError):
            await who.authenticate(TOKEN)
        assert await who.authenticate(TOKEN) == Caller(node="one")

    play(ask, pod=agent_pod())


def workload(name: str, node: str, address: str) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "serviceAccountName": name},
        "status": {"phase": "Running", "podIP": address},
    }


def test_a_node_gets_certificates_of_what_runs_on_it_and_no_others(tmp_path: Path) -> None:
    """The whole way: pods at the API server, a token, HTTPS, a signed certificate or a refusal."""
    path = tmp_path / "ca"
    init_ca(path, trust_domain="cluster.local", now=time.time(), random_bytes=os.urandom)

    async def run() -> None:
        server = KubeApiServer()
        server.reviews[TOKEN] = review()
        labels = {"meshnode.io/dataplane": "enabled"}
        shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        async with server.running(), KubeApi(server.access) as api:
            await server.apply(
                {**shop, "metadata": {"name": "shop", "labels": labels}},
                agent_pod(),
                workload("here", "one", "10.0.0.1"),
                workload("there", "two", "10.0.0.2"),
            )
            async with open_kubernetes(server.access) as source:
                snapshot = reduce(await anext(source.watch()), None)
            host = CaHost(
                StateDir(path),
                directory=SnapshotDirectory(lambda: snapshot),
                clock=time.time,
                random_bytes=os.urandom,
                authenticator=TokenReviewAuthenticator(api, ACCOUNT, now=time.monotonic),
            )
            try:
                port = await host.start("127.0.0.1", 0)
                assert await ask(path, port, "here", TOKEN) == 200
                assert await ask(path, port, "there", TOKEN) == 403
                assert await ask(path, port, "here", "a-token-of-nobody") == 401
                # The pods' own tokens, which any of them can have: each its own, and no other.
                for name, node in (("here", "one"), ("there", "two")):
                    server.reviews[f"token of {name}"] = pod_review(server, name, node)
                assert await ask(path, port, "here", "token of here") == 200
                assert await ask(path, port, "there", "token of there") == 200
                assert await ask(path, port, "there", "token of here") == 403
                assert await ask(path, port, "here", "token of there") == 403
            finally:
                await host.stop()

    asyncio.run(run())


def pod_review(server: KubeApiServer, name: str, node: str) -> Mapping[str, object]:
    """What the API server says about the token of a pod in shop that is named as its account."""
    uid = metadata(server.store.get("pods", ("shop", name)))["uid"]
    extra = {"pod-name": [name], "pod-uid": [uid], "node-name": [node]}
    return review(username=f"system:serviceaccount:shop:{name}", extra=extra)


async def ask(path: Path, port: int, account: str, token: str) -> int:
    """Ask the CA for a certificate; the status of its answer."""
    identity = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account=account)
    request = new_request(identity)
    body = wire.CertificateRequest(csr=request.csr_pem.decode(), identity=str(identity))
    tls = pinned_context(StateDir(path).load_server_root().roots_pem)
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"https://127.0.0.1:{port}{wire.CERTIFICATES_PATH}",
            data=msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {token}"},
            ssl=tls,
            server_hostname=SERVER_NAME,
        ) as response,
    ):
        await response.read()
        return response.status
