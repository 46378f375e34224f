"""`targetRefs` of a policy: what a waypoint enforces it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.model.policy import PolicyTarget, TargetKind
from mesh.sources.fields import FieldError, FieldPath, parse_name
from mesh.sources.security_schema import Selector, TargetRef
from mesh.sources.suggest import did_you_mean

_MAX_TARGETS = 16
"""Istio's limit (AuthorizationPolicy reference)."""
_GROUPS: Mapping[TargetKind, tuple[str, ...]] = {
    TargetKind.SERVICE: ("", "core"),
    TargetKind.SERVICE_ENTRY: ("networking.istio.io",),
    TargetKind.GATEWAY: ("gateway.networking.k8s.io",),
    TargetKind.GATEWAY_CLASS: ("gateway.networking.k8s.io",),
}


def check_targets(
    selector: Selector | None, single: TargetRef | None, several: Sequence[TargetRef]
) -> None:
    """Refuse what excludes each other, and too many targets."""
    at: FieldPath = ("spec", "targetRef")
    if selector and (single or several):
        other = "targetRef" if single else "targetRefs"
        message = f"selector and {other} exclude each other"
        raise FieldError(("spec", "selector"), message, at_key=True)
    if single and several:
        raise FieldError(at, "targetRef and targetRefs exclude each other", at_key=True)
    if len(several) > _MAX_TARGETS:
        raise FieldError(("spec", "targetRefs"), f"at most {_MAX_TARGETS} targets are allowed")


def read_targets(
    single: TargetRef | None, several: Sequence[TargetRef], namespace: str
) -> tuple[PolicyTarget, ...]:
    """Read the targets of a policy; raise `FieldError`."""
    if single is not None:
        return (_target(single, namespace, ("spec", "targetRef")),)
    return tuple(
        _target(ref, namespace, ("spec", "targetRefs", number))
        for number, ref in enumerate(several)
    )


def _target(ref: TargetRef, namespace: str, at: FieldPath) -> PolicyTarget:
    if ref.kind not in tuple(TargetKind):
        hint = did_you_mean(ref.kind, TargetKind)
        raise FieldError((*at, "kind"), f"{ref.kind!r} cannot be a target{hint}")
    kind = TargetKind(ref.kind)
    if ref.group not in _GROUPS[kind]:
        want = _GROUPS[kind][0]
        raise FieldError((*at, "group"), f"the group of a {kind} is {want!r}, not {ref.group!r}")
    if ref.namespace and (ref.namespace != namespace or kind is TargetKind.GATEWAY_CLASS):
        message = "a target is in the policy's own namespace: leave the field out"
        raise FieldError((*at, "namespace"), message)
    own = "" if kind is TargetKind.GATEWAY_CLASS else namespace
    return PolicyTarget(kind=kind, namespace=own, name=parse_name(ref.name, (*at, "name")))
