"""Whose token and whether allowed: who may do what.

Tokens are judged first, because policies speak of their claims. Then, as Istio orders it: CUSTOM
(external authorizers, asked while the request waits), DENY, ALLOW; AUDIT and dry-run policies leave
a mark. Fails closed: an authorizer that cannot be asked denies unless its provider says otherwise,
and a connection that is no HTTP is denied where a policy needs HTTP to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from mesh.http1.message import CONNECT, Headers, RequestHead
from mesh.jwt.authenticate import Authenticated, Rejected, RequestEdits
from mesh.jwt.extract import TokenRequest
from mesh.jwt.index import AuthenticationIndex
from mesh.jwt.keys import KeySet
from mesh.jwt.verified import VerifiedTokens
from mesh.jwt.verify import CLOCK_SKEW_S
from mesh.model.authentication import JwtRule
from mesh.model.claims import Claims
from mesh.model.provider import ExternalAuthorizer
from mesh.model.request import RequestFlag
from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.model.workload import ServiceKey
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.facts import AskProvider, AskProviders, RequestFacts
from mesh.routing.message import fold_headers
from mesh.telemetry import names
from waypoint.contract import Origin
from waypoint.routing.dependence import Dependence, of_policies
from waypoint.routing.plan import Cancellable, Marks, Reply
from waypoint.security.custom.answer import Answer, Failed, Permit, Refusal, apply_permit
from waypoint.security.custom.ask import Shown
from waypoint.security.judgement import Admitted, Judgement, Later
from waypoint.upstream.endpoints import Endpoints

DENIED = "RBAC: access denied"
_ADMITTED = Admitted()


class Keys(Protocol):
    """Keys of token issuers."""

    def keys(self, rule: JwtRule) -> KeySet | None: ...
    async def refresh(self, rules: Iterable[JwtRule]) -> bool:
        """Fetch keys that a token misses; False if that is not allowed so soon."""


class Asks(Protocol):
    """External authorizers; see `waypoint.security.custom.ask`."""

    async def ask(
        self,
        provider: ExternalAuthorizer,
        endpoints: Endpoints,
        origin: Origin,
        head: RequestHead,
        shown: Shown,
    ) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What policy needs of the rest of its worker.

    Attributes:
        spawn: runs what a request waits for.
        epoch_s: wall clock, for the validity of tokens.
        count: told of each question to a provider, by outcome.
        verified: tokens with a good signature, remembered over snapshots.
    """

    keys: Keys
    authorizers: Asks
    spawn: Callable[[Coroutine[None, None, None]], Cancellable]
    epoch_s: Callable[[], float]
    count: Callable[[str, tuple[str, ...]], None]
    verified: VerifiedTokens = field(default_factory=VerifiedTokens)


class PolicyAuthorizer:
    """Judges by the objects of one snapshot."""

    def __init__(
        self,
        policies: RequestIndex,
        tokens: AuthenticationIndex,
        endpoints: Endpoints,
        outside: Outside,
    ) -> None:
        self._policies = policies
        self._tokens = tokens
        self._endpoints = endpoints
        self._outside = outside

    def depends(self, origin: Origin) -> Dependence | None:
        """What of a request its judgement depends on; None: on more than can be said."""
        service = origin.service.key if origin.service else None
        if self._tokens.authenticator(service) is not None:
            return None
        return of_policies(p for layer in self._policies.applicable(service) for p in layer)

    def judge(self, origin: Origin, head: RequestHead) -> Judgement:
        """May edit the head (claims to headers)."""
        return self._judge(origin, head, may_wait=True)

    def _judge(self, origin: Origin, head: RequestHead, *, may_wait: bool) -> Judgement:
        service = origin.service.key if origin.service else None
        claims = self._authenticate(service, head)
        if isinstance(claims, Rejected):
            if claims.refresh and may_wait:
                return self._after_keys(origin, head, claims)
            return _bad_token(claims)
        if not any(self._policies.applicable(service)):
            return _ADMITTED
        verdict = self._policies.evaluate(_facts(origin, head, claims))
        if isinstance(verdict, AskProviders):
            return self._after_providers(origin, head, claims, verdict)
        return _judgement(verdict)

    # --- tokens ---------------------------------------------------------------------------------

    def _authenticate(
        self, service: ServiceKey | None, head: RequestHead, at: float | None = None
    ) -> Claims | Rejected | None:
        """Claims of the request's token, at an instant or now; None without one."""
        authenticator = self._tokens.authenticator(service)
        if authenticator is None:
            return None
        query = head.target.partition(b"?")[2].decode("latin-1")
        request = TokenRequest(headers=_folded(head), query=query)
        outside = self._outside
        when = outside.epoch_s() if at is None else at
        outcome = authenticator.authenticate(request, outside.keys.keys, when)
        if isinstance(outcome, Rejected):
            return outcome
        _apply(head, outcome.edits)
        return outcome.claims if isinstance(outcome, Authenticated) else None

    def _after_keys(self, origin: Origin, head: RequestHead, rejected: Rejected) -> Later:
        """The token names a key that is not here: it may have been published since."""

        async def settle(_: bytes, __: bool) -> Judgement:
            await self._outside.keys.refresh(rejected.refresh)
            # Judged again in any case: a fetch under way may have ended meanwhile.
            return self._judge(origin, head, may_wait=False)

        return self._later(settle)

    def _later(
        self,
        settle: Callable[[bytes, bool], Coroutine[None, None, Judgement]],
        body_bytes: int = 0,
    ) -> Later:
        def begin(body: bytes, whole: bool, done: Callable[[Judgement], None]) -> Cancellable:
            async def run() -> None:
                done(await settle(body, whole))

            return self._outside.spawn(run())

        return Later(begin=begin, body_bytes=body_bytes)

    # --- external authorizers -------------------------------------------------------------------

    def _after_providers(
        self, origin: Origin, head: RequestHead, claims: Claims | None, found: AskProviders
    ) -> Later:
        async def settle(body: bytes, whole: bool) -> Judgement:
            shown = Shown(body=body, whole=whole)
            response_headers: list[tuple[bytes, bytes]] = []
            for ask in found.asks:
                answer = await self._outside.authorizers.ask(
                    ask.provider, self._endpoints, origin, head, shown
                )
                outcome = _outcome(ask, answer)
                self._outside.count(names.AUTHORIZER.name, (ask.provider.name, outcome))
                if isinstance(answer, Permit):
                    apply_permit(head, answer)
                    response_headers += answer.response_headers
                elif isinstance(answer, Refusal) or not ask.provider.fail_open:
                    return _refused_by(ask, answer)
            judged = _judgement(self._policies.after_providers(_facts(origin, head, claims)))
            if isinstance(judged, Admitted):
                added = response_headers or None
                return replace(judged, response_headers=added, granted=True)
            return judged

        wanted = [ask.provider.body.max_bytes for ask in found.asks if ask.provider.body]
        return self._later(settle, max(wanted, default=0))

    # --- requests under way ---------------------------------------------------------------------

    def judge_again(
        self,
        origin: Origin,
        head: RequestHead,
        granted: Headers | None,
        before: PolicyAuthorizer,
        began_at: float | None = None,
    ) -> Reply | None:
        """What to refuse a request with that `before` allowed; None: it may go on.

        External authorizers are not asked again: their word holds, unless a policy wants one that
        was not asked. Tokens are judged as at `began_at` (epoch s): what has expired since then is
        no matter of policy.
        """
        service = origin.service.key if origin.service else None
        claims = self._authenticate(service, head, began_at)
        if isinstance(claims, Rejected):
            return _bad_token(claims)
        if granted is not None:
            head.headers = granted
        facts = _facts(origin, head, claims)
        verdict = self._policies.evaluate(facts)
        if isinstance(verdict, AskProviders):
            asked = before._asked(facts)
            for ask in verdict.asks:
                if ask.provider not in asked:
                    return _refused_by(ask, Failed(detail="not asked when it began"))
            verdict = self._policies.after_providers(facts)
        judged = _judgement(verdict)
        return judged if isinstance(judged, Reply) else None

    def _asked(self, facts: RequestFacts) -> frozenset[ExternalAuthorizer]:
        verdict = self._policies.evaluate(facts)
        if not isinstance(verdict, AskProviders):
            return frozenset()
        return frozenset(ask.provider for ask in verdict.asks)

    def token_expiry(self, origin: Origin, head: RequestHead) -> float | None:
        """When the token of a request stops being believed; None: never, or there is none."""
        service = origin.service.key if origin.service else None
        claims = self._authenticate(service, head)
        if not isinstance(claims, Claims):
            return None
        expires = claims.payload.get("exp")
        return expires + CLOCK_SKEW_S if isinstance(expires, int | float) else None

    # --- connections ----------------------------------------------------------------------------

    def opaque_verdict(self, origin: Origin) -> Verdict:
        """Judge a connection that is no HTTP; a rule that needs HTTP denies it."""
        service = origin.service.key if origin.service else None
        layers = self._policies.applicable(service)
        for layer in layers:
            for policy in layer:
                wanting = (n for n, rule in enumerate(policy.rules) if rule.l7_fields)
                number = next(wanting, None)
                if number is not None:
                    ref = RuleRef(kind="AuthorizationPolicy", policy=policy.key, rule=number)
                    return Verdict(allowed=False, decision=Decision.NEEDS_L7, decided_by=ref)
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
        if isinstance(verdict, AskProviders):
            ref = verdict.asks[0].decided_by
            return Verdict(allowed=False, decision=Decision.NEEDS_L7, decided_by=ref)
        return verdict

    def admits_opaque(self, origin: Origin) -> bool:
        return self.opaque_verdict(origin).allowed


def _facts(origin: Origin, head: RequestHead, claims: Claims | None) -> RequestFacts:
    return RequestFacts(
        principal=origin.principal,
        src=origin.client,
        dst=origin.dialled,
        service=origin.service.key if origin.service else None,
        method=head.method.decode("latin-1"),
        path="" if head.upgrade == CONNECT else _path_of(head),
        host=head.host.decode("latin-1"),
        headers=_folded(head),
        claims=claims,
    )


def _path_of(head: RequestHead) -> str:
    return head.target.partition(b"?")[0].decode("latin-1")


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


def _bad_token(rejected: Rejected) -> Reply:
    return Reply(
        status=rejected.status,
        text="Jwt verification fails",
        headers=[(b"www-authenticate", rejected.www_authenticate.encode("latin-1"))],
        details=f"jwt_authn_access_denied{{{rejected.fault}: {rejected.detail}}}",
    )


def _marks(verdict: Verdict, policy: str = "") -> Marks | None:
    if not (verdict.audited or verdict.dry_run or policy):
        return None
    return Marks(
        policy=policy,
        audited=tuple(str(ref) for ref in verdict.audited),
        dry_run=tuple(str(ref) for ref in verdict.dry_run),
    )


def _judgement(verdict: Verdict) -> Judgement:
    """As Envoy logs it: no flag; the details name policy and rule, as everywhere."""
    if verdict.allowed:
        marks = _marks(verdict)
        return Admitted(marks=marks) if marks is not None else _ADMITTED
    ref = verdict.decided_by
    if verdict.decision is Decision.UNKNOWN_PROVIDER:
        details = f"ext_authz_error{{unknown provider}}[{ref or 'none'}]"
        flag = RequestFlag.DENIED
    else:
        details = f"rbac_access_denied_matched_policy[{ref or 'none'}]"
        flag = RequestFlag.NONE
    return Reply(
        status=403,
        text=DENIED,
        flag=flag,
        details=details,
        marks=_marks(verdict, str(ref) if ref else str(verdict.decision)),
    )


def _outcome(ask: AskProvider, answer: Answer) -> str:
    match answer:
        case Permit():
            return "allowed"
        case Refusal():
            return "denied"
        case Failed():
            return "failed_open" if ask.provider.fail_open else "failed_closed"


def _refused_by(ask: AskProvider, answer: Answer) -> Reply:
    """The client gets what the authorizer says, or, where it failed, what its provider says."""
    marks = Marks(policy=str(ask.decided_by))
    where = f"[{ask.decided_by}]"
    if isinstance(answer, Refusal):
        return Reply(
            status=answer.status,
            text=answer.body.decode(errors="surrogateescape"),
            headers=list(answer.headers),
            flag=RequestFlag.DENIED,
            details=f"ext_authz_denied{where}",
            marks=marks,
        )
    detail = answer.detail if isinstance(answer, Failed) else ""
    return Reply(
        status=ask.provider.error_status,
        text=DENIED,
        flag=RequestFlag.DENIED,
        details=f"ext_authz_error{{{detail}}}{where}",
        marks=marks,
    )
