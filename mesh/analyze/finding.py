"""One finding, and what to do about each kind of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.codes import Code
from mesh.model.snapshot import Problem, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong with an object.

    Attributes:
        subject: kind, namespace and name; empty for a file that does not parse.
        where: `file:line` or, on Kubernetes, `kind namespace/name`.
    """

    code: Code
    severity: Severity
    subject: str
    where: str
    message: str
    hint: str


def finding(
    code: Code, subject: str, where: str, message: str, severity: Severity = Severity.WARNING
) -> Finding:
    """Make a finding with the hint of its code."""
    return Finding(
        code=code,
        severity=severity,
        subject=subject,
        where=where,
        message=message,
        hint=_HINTS[code],
    )


def of_problem(problem: Problem) -> Finding:
    """Turn what a source or the reducer found into a finding."""
    code = problem.code or (Code.UNREADABLE if problem.subject else Code.SOURCE)
    return finding(code, problem.subject, problem.where, problem.message, problem.severity)


def hint_of(code: Code) -> str:
    """What to do about a kind of problem."""
    return _HINTS[code]


_HINTS: Mapping[Code, str] = {
    Code.UNREADABLE: "mend the field that the message names; until then the last good version"
    " stays in force",
    Code.SOURCE: "make the file or the kind readable; `meshnode install` adds missing kinds",
    Code.DUPLICATE: "delete one of the two objects, or give it another name",
    Code.SECOND_CONFIG: "delete every MeshConfig but one",
    Code.BAD_LABEL: "give the label or annotation one of the values that the message names",
    Code.NO_ADDRESS: "nothing to do while the pod is starting; else look at its events",
    Code.NO_IDENTITY: "namespace and service account must fit into a SPIFFE ID",
    Code.NO_ACCOUNT: "create the ServiceAccount, or correct serviceAccountName",
    Code.ADDRESS_TAKEN: "give each workload an address of its own",
    Code.VIP_TAKEN: "give each Service an address of its own",
    Code.LOOSE_SLICE: "add the label kubernetes.io/service-name with the Service's name",
    Code.NO_ENDPOINTS: "compare the Service's selector with the labels of its pods",
    Code.TARGET_FORBIDDEN: "move the policy to the root namespace, or target a Service or Gateway",
    Code.TARGET_UNSUPPORTED: "target a Service, a Gateway or a GatewayClass",
    Code.TARGET_MISSING: "create the target, or correct targetRefs; a target is of the policy's"
    " own namespace",
    Code.TARGET_WITHOUT_WAYPOINT: "label the Service or its namespace with"
    " meshnode.io/use-waypoint, see `meshnode waypoint apply`",
    Code.UNKNOWN_PROVIDER: "add the provider to spec.extensionProviders of the MeshConfig",
    Code.RULE_UNSUPPORTED: "remove the fields that the message names",
    Code.NEEDS_TARGET: "add targetRefs: this is decided by waypoints, not on the node",
    Code.RULE_NEEDS_WAYPOINT: "give the policy targetRefs and its target a waypoint, or use L4"
    " fields only",
    Code.BAD_KEY: "correct the key in jwks",
    Code.NO_KEY: "put a usable key into jwks, or name a jwksUri",
    Code.SELECTS_NOTHING: "compare spec.selector.matchLabels with the labels of the pods",
    Code.DENIES_ALL: "add a rule, unless denying everything is what you want",
    Code.NO_SERVICE_PARENT: "let parentRefs name a Service: {group: '', kind: Service, name: …}",
    Code.RULE_DROPPED: "use a match that this mesh supports",
    Code.RULE_FAILS: "use filters that this mesh supports; a filter is never skipped silently",
    Code.ROUTE_REFUSED: "correct parentRefs as the message says",
    Code.BACKEND_UNRESOLVED: "create the backend, correct its port, or add a ReferenceGrant",
    Code.ROUTE_WITHOUT_WAYPOINT: "give the Service a waypoint (`meshnode waypoint apply`): routes"
    " act there and nowhere else",
    Code.POLICY_TARGET_MISSING: "create the target, or correct targetRefs",
    Code.POLICY_CONFLICT: "put the settings of one target into one TrafficPolicy",
    Code.POLICY_WITHOUT_WAYPOINT: "give the Service a waypoint (`meshnode waypoint apply`)",
    Code.WAYPOINT_MISSING: "create the waypoint (`meshnode waypoint apply`), or remove the label:"
    " until then connections are refused",
    Code.WAYPOINT_NOT_READY: "look at the waypoint's pods: until one is ready connections are"
    " refused",
    Code.WAYPOINT_UNFIT: "label the waypoint's Gateway `meshnode.io/waypoint-for: all`, or remove"
    " the object's own label",
}
