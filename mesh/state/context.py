"""What objects are read against, and what is shared between the values made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.errors import IdentityError
from mesh.model.address import IPAddress, parse_ip
from mesh.model.codes import Code
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import Problem, Severity
from mesh.model.workload import WaypointFor
from mesh.sources.objects import SourceObject

MAX_SHARED = 500_000
"""Then sharing begins anew: addresses and names of jobs never come back."""


class Shared:
    """Equal texts and addresses stored once: pods and endpoints name the same by the thousand."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._addresses: dict[str, IPAddress] = {}
        self._accounts: dict[tuple[str, str, str], str] = {}

    def text(self, value: str) -> str:
        """Return the first text that was equal to this one."""
        if len(self._texts) >= MAX_SHARED:
            self._texts.clear()
        return self._texts.setdefault(value, value)

    def address(self, text: str) -> IPAddress:
        """Parse an address that the source has checked."""
        known = self._addresses.get(text)
        if known is None:
            if len(self._addresses) >= MAX_SHARED:
                self._addresses.clear()
            known = self._addresses[text] = parse_ip(text)
        return known

    def identity_error(self, trust_domain: str, namespace: str, account: str) -> str:
        """Why a service account can have no identity; empty if it can."""
        key = (trust_domain, namespace, account)
        known = self._accounts.get(key)
        if known is None:
            if len(self._accounts) >= MAX_SHARED:
                self._accounts.clear()
            try:
                SpiffeId(trust_domain=trust_domain, namespace=namespace, service_account=account)
                known = ""
            except IdentityError as error:
                known = str(error)
            self._accounts[key] = known
        return known


@dataclass(slots=True, kw_only=True)
class Context:
    """What every object is read against, and the place for what is wrong."""

    trust_domain: str = ""
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    waypoints: Mapping[str, WaypointFor] = field(default_factory=dict)
    accounts: set[tuple[str, str]] = field(default_factory=set)
    shared: Shared = field(default_factory=Shared)
    problems: list[Problem] = field(default_factory=list)

    def report(
        self, source: SourceObject, code: Code, message: str, severity: Severity = Severity.ERROR
    ) -> None:
        """Add a problem of an object."""
        self.problems.append(
            Problem(
                where=source.where,
                subject=source.subject,
                message=message,
                severity=severity,
                code=code,
            )
        )

    def take_problems(self) -> tuple[Problem, ...]:
        """Return what was reported since the last time."""
        taken = tuple(self.problems)
        self.problems.clear()
        return taken
