"""Who may change an agent from afar: the holder of the operator's token for its node alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from agent.admin.server import NotAllowed
from agent.kubernetes.operator import OperatorGate
from mesh.run_files import operator_audience
from mesh.sources.kubernetes.transport import KubeApi
from tests.kube.accounts import account_token, forbid_keys, gate_of, serve_accounts
from tests.support.kube_api import KubeApiServer
from tests.unit.mesh.jwt import issuer

HERE = operator_audience("n1")


def at_the_gate(script: Callable[[KubeApiServer, OperatorGate], Awaitable[None]]) -> None:
    async def run() -> None:
        server = KubeApiServer()
        async with asyncio.timeout(60), server.running(), KubeApi(server.access) as api:
            await script(server, gate_of(api, "n1"))

    asyncio.run(run())


def test_the_token_for_this_node_opens_it() -> None:
    async def ask(server: KubeApiServer, gate: OperatorGate) -> None:
        serve_accounts(server)
        await gate.check(account_token(HERE))
        await gate.check(account_token(HERE))
        assert server.asked("openid") == 2  # both addresses once: the keys are kept

    at_the_gate(ask)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("nothing", "three parts"),
        (account_token(operator_audience("n2")), "another audience"),
        (account_token("https://kubernetes.default.svc"), "another audience"),
        (account_token(HERE, sub="system:serviceaccount:shop:meshnode-operator"), "not one of"),
        (account_token(HERE, sub="system:serviceaccount:meshnode-system:default"), "not one of"),
        (account_token(HERE, exp=time.time() - 3600), "expired"),
        (account_token(HERE, exp=None), "no end"),
        (account_token(HERE, aud=None), "another audience"),
        (account_token(HERE, iss="https://elsewhere"), "not of this cluster"),
    ],
    ids=[
        *("garbage", "other-node", "api-server", "other-namespace", "other-account"),
        *("expired", "endless", "for-nobody", "other-cluster"),
    ],
)
def test_every_other_token_is_refused(token: str, reason: str) -> None:
    async def ask(server: KubeApiServer, gate: OperatorGate) -> None:
        serve_accounts(server)
        with pytest.raises(NotAllowed, match=reason):
            await gate.check(token)

    at_the_gate(ask)


def test_a_token_that_somebody_else_signed_is_refused() -> None:
    forged = issuer.token(issuer.signer("ES256", "k1"), issuer.payload(**_claims_of_a_good_token()))

    async def ask(server: KubeApiServer, gate: OperatorGate) -> None:
        serve_accounts(server)
        with pytest.raises(NotAllowed, match="no key of the issuer fits"):
            await gate.check(forged)

    at_the_gate(ask)


def _claims_of_a_good_token() -> dict[str, object]:
    from mesh.jwt.token import parse_token

    return dict(parse_token(account_token(HERE)).payload)


def test_without_keys_nobody_gets_in_and_the_reason_is_said() -> None:
    async def ask(server: KubeApiServer, gate: OperatorGate) -> None:
        serve_accounts(server)
        forbid_keys(server)
        with pytest.raises(NotAllowed, match="system:service-account-issuer-discovery"):
            await gate.check(account_token(HERE))

    at_the_gate(ask)
