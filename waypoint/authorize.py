"""L7 authorization of requests: see `waypoint.route_router.Authorizer`.

Fails closed: a request whose CUSTOM rules name an external authorizer is denied here, because this
point asks none yet; a connection that is no HTTP is denied where a policy needs HTTP to decide.
"""

from __future__ import annotations

from mesh.http1.message import RequestHead
from mesh.model.request import RequestFlag
from mesh.model.verdict import Verdict
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import AskProviders, RequestFacts
from mesh.routing.message import fold_headers
from waypoint.contract import Origin
from waypoint.plan import Reply

DENIED = "RBAC: access denied"


class PolicyAuthorizer:
    """Judges by the policies of one snapshot."""

    def __init__(self, index: RequestIndex) -> None:
        self._index = index

    def judge(self, origin: Origin, head: RequestHead) -> Reply | None:
        service = origin.service.key if origin.service else None
        if not any(self._index.applicable(service)):
            return None
        path = head.target.partition(b"?")[0].decode("latin-1")
        fields = ((n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers)
        verdict = self._index.evaluate(
            RequestFacts(
                principal=origin.principal,
                src=origin.client,
                dst=origin.dialled,
                service=service,
                method=head.method.decode("latin-1"),
                path=path,
                host=head.host.decode("latin-1"),
                headers=fold_headers(fields),
            )
        )
        if isinstance(verdict, AskProviders):
            return _refusal(f"rbac_access_denied_custom[{verdict.asks[0].decided_by.policy}]")
        if verdict.allowed:
            return None
        return _refusal(_details(verdict))

    def admits_opaque(self, origin: Origin) -> bool:
        service = origin.service.key if origin.service else None
        layers = self._index.applicable(service)
        if not any(layers):
            return True
        if any(rule.l7_fields for layer in layers for policy in layer for rule in policy.rules):
            return False
        facts = RequestFacts(
            principal=origin.principal,
            src=origin.client,
            dst=origin.dialled,
            service=service,
            method="",
            path="",
            host="",
        )
        verdict = self._index.evaluate(facts)
        return isinstance(verdict, Verdict) and verdict.allowed


def _details(verdict: Verdict) -> str:
    policy = verdict.decided_by.policy if verdict.decided_by else "none"
    return f"rbac_access_denied_matched_policy[{policy}]"


def _refusal(details: str) -> Reply:
    return Reply(status=403, text=DENIED, flag=RequestFlag.DENIED, details=details)
