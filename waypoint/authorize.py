"""Whose token and whether allowed: see `waypoint.route_router.Authorizer`.

Tokens are judged first, because policies speak of their claims. Fails closed: a request whose
CUSTOM rules name an external authorizer is denied, because this point asks none yet; a connection
that is no HTTP is denied where a policy needs HTTP to decide.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.http1.message import RequestHead
from mesh.jwt.authenticate import Authenticated, KeyLookup, Rejected, RequestEdits
from mesh.jwt.extract import TokenRequest
from mesh.jwt.index import AuthenticationIndex
from mesh.model.authentication import JwtRule
from mesh.model.claims import Claims
from mesh.model.request import RequestFlag
from mesh.model.verdict import Verdict
from mesh.model.workload import ServiceKey
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import AskProviders, RequestFacts
from mesh.routing.message import fold_headers
from waypoint.contract import Origin
from waypoint.plan import Reply

DENIED = "RBAC: access denied"


class PolicyAuthorizer:
    """Judges by the objects of one snapshot.

    Args:
        keys: keys of issuers; refresh: says that some are worth fetching again.
        epoch_s: wall clock, for the validity of tokens.
    """

    def __init__(
        self,
        policies: RequestIndex,
        tokens: AuthenticationIndex,
        keys: KeyLookup,
        refresh: Callable[[tuple[JwtRule, ...]], None],
        epoch_s: Callable[[], float],
    ) -> None:
        self._policies = policies
        self._tokens = tokens
        self._keys = keys
        self._refresh = refresh
        self._epoch_s = epoch_s

    def judge(self, origin: Origin, head: RequestHead) -> Reply | None:
        service = origin.service.key if origin.service else None
        claims = self._authenticate(service, head)
        if isinstance(claims, Reply):
            return claims
        if not any(self._policies.applicable(service)):
            return None
        verdict = self._policies.evaluate(
            RequestFacts(
                principal=origin.principal,
                src=origin.client,
                dst=origin.dialled,
                service=service,
                method=head.method.decode("latin-1"),
                path=head.target.partition(b"?")[0].decode("latin-1"),
                host=head.host.decode("latin-1"),
                headers=_folded(head),
                claims=claims,
            )
        )
        if isinstance(verdict, AskProviders):
            policy = verdict.asks[0].decided_by.policy
            return _refusal(f"rbac_access_denied_custom[{policy}]", RequestFlag.DENIED)
        if verdict.allowed:
            return None
        return _refusal(_details(verdict))

    def _authenticate(self, service: ServiceKey | None, head: RequestHead) -> Claims | Reply | None:
        """Claims of the request's token; None without one; a refusal for a bad one."""
        authenticator = self._tokens.authenticator(service)
        if authenticator is None:
            return None
        query = head.target.partition(b"?")[2].decode("latin-1")
        request = TokenRequest(headers=_folded(head), query=query)
        outcome = authenticator.authenticate(request, self._keys, self._epoch_s())
        if isinstance(outcome, Rejected):
            if outcome.refresh:
                self._refresh(outcome.refresh)
            return Reply(
                status=outcome.status,
                text="Jwt verification fails",
                headers=[(b"www-authenticate", outcome.www_authenticate.encode("latin-1"))],
                details=f"jwt_authn_access_denied{{{outcome.detail}}}",
            )
        _apply(head, outcome.edits)
        return outcome.claims if isinstance(outcome, Authenticated) else None

    def admits_opaque(self, origin: Origin) -> bool:
        service = origin.service.key if origin.service else None
        layers = self._policies.applicable(service)
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
        verdict = self._policies.evaluate(facts)
        return isinstance(verdict, Verdict) and verdict.allowed


def _folded(head: RequestHead) -> dict[str, str]:
    return fold_headers((n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers)


def _apply(head: RequestHead, edits: RequestEdits) -> None:
    if edits.remove_headers or edits.set_headers:
        gone = {name.encode("latin-1") for name in edits.remove_headers}
        gone |= {name.encode("latin-1") for name, _ in edits.set_headers}
        kept = [item for item in head.headers if item[0] not in gone]
        added = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in edits.set_headers]
        head.headers = kept + added
    if edits.query is not None:
        path = head.target.partition(b"?")[0]
        head.target = path + b"?" + edits.query.encode("latin-1") if edits.query else path


def _details(verdict: Verdict) -> str:
    policy = verdict.decided_by.policy if verdict.decided_by else "none"
    return f"rbac_access_denied_matched_policy[{policy}]"


def _refusal(details: str, flag: RequestFlag = RequestFlag.NONE) -> Reply:
    """As Envoy logs it: the flag is for external authorizers, the details name the policy."""
    return Reply(status=403, text=DENIED, flag=flag, details=details)
