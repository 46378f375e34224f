"""The decision about one request, with the policy and rule that made it.

Order (Istio): CUSTOM, DENY, ALLOW; AUDIT and dry-run policies only leave a mark. A CUSTOM rule is
decided by somebody else, so the answer may be whom to ask; when all agree, the request is judged
again, because the headers they add count in what follows.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.model.policy import AuthorizationPolicy
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import Decision, RuleRef, Verdict
from mesh.model.workload import ServiceKey
from mesh.policy.judge import NO_POLICY, deny, judge, marked
from mesh.policy.l7.facts import AskProvider, AskProviders, RequestFacts
from mesh.policy.l7.layer import RequestLayer
from mesh.policy.l7.match import Request, request_of
from mesh.policy.l7.scope import TargetScopes
from mesh.policy.layer import LayerCache
from mesh.policy.match import TrustDomains


class RequestIndex:
    """The policies of one waypoint. Immutable to users; services are compiled on first use."""

    def __init__(
        self, snapshot: MeshSnapshot, waypoint: str, previous: RequestIndex | None = None
    ) -> None:
        settings = snapshot.settings
        self.waypoint = waypoint
        self.trust_domains = TrustDomains(
            tuple(dict.fromkeys((settings.trust_domain, *settings.trust_domain_aliases)))
        )
        self._scopes: TargetScopes[AuthorizationPolicy] = TargetScopes(
            snapshot.policies.values(), settings.root_namespace, waypoint
        )
        self._providers = {provider.name: provider for provider in settings.providers}
        older = previous._cache if previous is not None else None
        self._cache: LayerCache[RequestLayer] = LayerCache(RequestLayer, older)
        self._layers: dict[ServiceKey | None, tuple[RequestLayer, ...]] = {}

    @classmethod
    def compile(
        cls, snapshot: MeshSnapshot, waypoint: str, previous: RequestIndex | None = None
    ) -> RequestIndex:
        """Index the policies of a waypoint (`<namespace>/<name>` of its Gateway).

        `previous` lends what has not changed.
        """
        return cls(snapshot, waypoint, previous)

    def evaluate(self, facts: RequestFacts) -> Verdict | AskProviders:
        """Judge a request, or say whom to ask about it first."""
        layers = self._compiled(facts.service)
        if not layers:
            return NO_POLICY
        request = request_of(facts, self.trust_domains)
        return self._custom(layers, request) or _judged(layers, request)

    def after_providers(self, facts: RequestFacts) -> Verdict:
        """Judge a request that all providers have let pass."""
        layers = self._compiled(facts.service)
        if not layers:
            return NO_POLICY
        return _judged(layers, request_of(facts, self.trust_domains))

    def applicable(self, service: ServiceKey | None) -> tuple[tuple[AuthorizationPolicy, ...], ...]:
        """Collect the policies for a service, widest scope first."""
        return self._scopes.of(service)

    def _compiled(self, service: ServiceKey | None) -> tuple[RequestLayer, ...]:
        known = self._layers.get(service)
        if known is None:
            found = self._scopes.of(service)
            if service is not None and not found[-1]:
                # Services without policies of their own share one entry, whatever they are called.
                return self._compiled(None)
            known = tuple(self._cache.layer(layer) for layer in found if layer)
            self._layers[service] = known
        return known

    def _custom(
        self, layers: tuple[RequestLayer, ...], request: Request
    ) -> Verdict | AskProviders | None:
        asks: dict[str, AskProvider] = {}
        for name, ref in _wanted(layers, request):
            provider = self._providers.get(name)
            if provider is None:
                return marked(deny(Decision.UNKNOWN_PROVIDER, ref), layers, request)
            asks.setdefault(name, AskProvider(provider=provider, decided_by=ref))
        return AskProviders(asks=tuple(asks.values())) if asks else None


def _wanted(layers: tuple[RequestLayer, ...], request: Request) -> Iterator[tuple[str, RuleRef]]:
    for layer in layers:
        for ref in layer.custom.all(request):
            yield layer.providers[ref.policy], ref


def _judged(layers: tuple[RequestLayer, ...], request: Request) -> Verdict:
    return marked(judge(layers, request, Decision.UNSUPPORTED), layers, request)


def provider_denied(ask: AskProvider) -> Verdict:
    """Say that an external authorizer denied, or that it failed and its policy fails closed."""
    return deny(Decision.PROVIDER, ask.decided_by)
