"""`authz check` for a whole request: what its waypoint would say, and why.

Nothing is sent, so keys that a waypoint would fetch are not at hand: the claims of such a token
count as they stand, and a step says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.admin.question import AuthzStep, RequestQuestion
from mesh.errors import ConfigError, RemoteProtocolError
from mesh.jwt.authenticate import Anonymous, Authenticated, Authenticator, Rejected
from mesh.jwt.errors import TokenError, TokenFault
from mesh.jwt.extract import TokenRequest
from mesh.jwt.index import AuthenticationIndex
from mesh.jwt.keys import KeySet, parse_key_set
from mesh.jwt.token import parse_token
from mesh.jwt.verify import check_claims
from mesh.model.address import SocketAddress
from mesh.model.authentication import JwtRule
from mesh.model.claims import ALWAYS_SPLIT, Claims
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Decision, Verdict
from mesh.model.workload import Service
from mesh.policy.explain import Step
from mesh.policy.l7.engine import RequestIndex
from mesh.policy.l7.explain import explain_request
from mesh.policy.l7.facts import RequestFacts
from mesh.routing.path import PathRules, normalize_path

NO_WAYPOINT = AuthzStep(
    what="request",
    action="",
    result="not looked at",
    detail="the destination has no waypoint: only the connection is judged",
)
_TOKENS = "RequestAuthentication"


def no_pods(waypoint: str) -> AuthzStep:
    """Say that the waypoint is not there, so nothing gets through."""
    return AuthzStep(
        what=f"Waypoint {waypoint}",
        action="WAYPOINT",
        result="matched",
        detail="the waypoint has no pods",
        decided=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, the way to it, and who else has a say."""

    verdict: Verdict
    steps: tuple[AuthzStep, ...]
    waypoint: str = ""
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What is called: a service (or, None, an address) behind a waypoint."""

    waypoint: str
    service: Service | None
    address: SocketAddress


def authz_step(step: Step) -> AuthzStep:
    """Turn a step of the engine into one of the answer."""
    return AuthzStep(
        what=str(step.ref),
        action=f"{step.action} (dry run)" if step.dry_run else step.action,
        result=step.outcome,
        detail=step.detail,
        decided=step.decided,
    )


def undecided(step: AuthzStep) -> AuthzStep:
    """Take the last word from a step: another point had it."""
    return replace(step, decided=False)


def judge_request(
    snapshot: MeshSnapshot, called: Called, connection: ConnectionFacts, request: RequestQuestion
) -> Judged:
    """Judge a request at its waypoint; raise `ConfigError` if it makes no sense."""
    key = called.service.key if called.service else None
    rules = AuthenticationIndex(snapshot, called.waypoint).authenticator(key)
    path, headers = _path(request.path, snapshot), _headers(request)
    token = _token(rules, request, headers, path)
    if token.refused is not None:
        return Judged(verdict=token.refused, steps=token.steps, waypoint=called.waypoint)
    facts = RequestFacts(
        principal=connection.principal,
        src=connection.src,
        dst=called.address,
        service=key,
        method=request.method,
        path=path.partition("?")[0],
        host=request.host or (called.service.hostname if called.service else str(called.address)),
        headers=token.headers,
        claims=token.claims,
    )
    found = explain_request(RequestIndex.compile(snapshot, called.waypoint), facts)
    asks = found.asked.asks if found.asked else ()
    return Judged(
        verdict=found.verdict,
        steps=(*token.steps, *map(authz_step, found.steps)),
        waypoint=called.waypoint,
        providers=tuple(ask.provider.name for ask in asks),
    )


def _path(text: str, snapshot: MeshSnapshot) -> str:
    path, mark, query = text.partition("?")
    rules = PathRules(normalization=snapshot.settings.path_normalization)
    try:
        return normalize_path(path, rules) + mark + query
    except RemoteProtocolError as error:
        raise ConfigError(f"{text!r} would be refused with 400: {error}") from error


def _headers(request: RequestQuestion) -> dict[str, str]:
    merged: dict[str, str] = {}
    for name, value in request.headers:
        known = merged.get(name.lower())
        merged[name.lower()] = value if known is None else f"{known},{value}"
    if request.token:
        if "authorization" in merged:
            raise ConfigError("give either a token or an Authorization header")
        merged["authorization"] = f"Bearer {request.token}"
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    headers: dict[str, str]
    steps: tuple[AuthzStep, ...] = ()
    claims: Claims | None = None
    refused: Verdict | None = None


def _token(
    rules: Authenticator | None, request: RequestQuestion, headers: dict[str, str], path: str
) -> _Token:
    if rules is None:
        unread = AuthzStep(what=_TOKENS, action="", result="none applies", detail="no token counts")
        return _Token(headers=headers, steps=(unread,) if request.token else ())
    asked = TokenRequest(headers=headers, query=path.partition("?")[2])
    outcome = rules.authenticate(asked, _inline_keys, request.at)
    match outcome:
        case Anonymous():
            kept = _without(headers, outcome.edits.remove_headers)
            step = AuthzStep(what=_TOKENS, action="", result="no token", detail="nobody vouches")
            return _Token(headers=kept, steps=(step,))
        case Authenticated():
            kept = _without(headers, outcome.edits.remove_headers)
            kept |= dict(outcome.edits.set_headers)
            step = _believed("verified", outcome.claims)
            return _Token(headers=kept, steps=(step,), claims=outcome.claims)
        case Rejected():
            return _unproven(outcome, request, headers)


def _unproven(outcome: Rejected, request: RequestQuestion, headers: dict[str, str]) -> _Token:
    """Take a token whose keys a waypoint would fetch as it stands; refuse every other."""
    detail = outcome.detail
    if outcome.fault is TokenFault.NO_KEYS and request.token:
        token = parse_token(request.token)
        rule = outcome.refresh[0]
        try:
            check_claims(token, rule.audiences, request.at)
        except TokenError as error:
            detail = str(error)
        else:
            split = ALWAYS_SPLIT.union(rule.space_delimited)
            claims = Claims(payload=token.payload, space_delimited=split)
            step = _believed("signature not checked", claims)
            kept = _without(headers, frozenset({"authorization"}))
            return _Token(headers=kept, steps=(step,), claims=claims)
    step = AuthzStep(what=_TOKENS, action="", result="refused", detail=detail, decided=True)
    verdict = Verdict(allowed=False, decision=Decision.INVALID_TOKEN)
    return _Token(headers=headers, steps=(step,), refused=verdict)


def _believed(result: str, claims: Claims) -> AuthzStep:
    return AuthzStep(
        what=_TOKENS,
        action="",
        result=result,
        detail=f"request principal {claims.principal or 'none'!r}",
    )


def _without(headers: dict[str, str], names: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def _inline_keys(rule: JwtRule) -> KeySet | None:
    return parse_key_set(rule.jwks.encode()) if rule.jwks else None
