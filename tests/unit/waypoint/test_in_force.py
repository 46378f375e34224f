"""The readable part of the configuration."""

from __future__ import annotations

import msgspec

from mesh.model.authentication import JwtRule
from mesh.model.policy import PolicyAction, RequestMatch
from mesh.model.provider import ExternalAuthorizer
from mesh.model.snapshot import MeshSettings
from mesh.model.workload import ServiceKey
from tests.contract.waypoint.scene import TARGET, WAYPOINT, Script, authentication
from tests.unit.mesh.policy.l7 import build
from waypoint.in_force import config_dump, in_force

GUARD = ExternalAuthorizer(
    name="guard", service="shop/guard", port=1, extra_headers=(("x-key", "secret"),)
)


def test_policies_are_in_the_order_of_judgement() -> None:
    rule = build.to(RequestMatch())
    policies = [
        build.policy("a", PolicyAction.ALLOW, rule, targets=(TARGET,)),
        build.policy("d", PolicyAction.DENY, rule, targets=(TARGET,), dry_run=True),
        build.policy("c", PolicyAction.CUSTOM, rule, targets=(TARGET,), provider="guard"),
    ]
    script = Script(
        policies=policies,
        authentications=(authentication(JwtRule(issuer="https://id", jwks="{}")),),
        providers=(GUARD,),
    )
    snapshot = script.build([])
    found = in_force(snapshot, WAYPOINT)[ServiceKey("shop/web")]
    assert found.policies == ("CUSTOM shop/c by guard", "DENY shop/d (dry-run)", "ALLOW shop/a")
    assert found.issuers == ("https://id",)
    assert found.routes == ()
    assert in_force(snapshot, "other/gate") == {}
    assert isinstance(snapshot.settings, MeshSettings)
    text = msgspec.json.encode(config_dump(snapshot, WAYPOINT), enc_hook=str).decode()
    assert "secret" not in text
    assert '"in_force"' in text
