"""SPIFFE IDs in the one form a mesh uses: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import IdentityError

# SPIFFE-ID §2.1: lower-case letters, digits, dot, dash, underscore; at most 255 bytes.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
# RFC 1123 label, as Kubernetes demands for namespaces; service accounts may also hold dots.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_SPIFFE_ID = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class SpiffeId:
    """Identity of a service account in a trust domain."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        for value, pattern, what in (
            (self.trust_domain, _TRUST_DOMAIN, "trust domain"),
            (self.namespace, _NAMESPACE, "namespace"),
            (self.service_account, _ACCOUNT, "service account"),
        ):
            if not pattern.fullmatch(value):
                raise IdentityError(f"{value!r} is not a valid {what} of a SPIFFE ID")

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"

    @property
    def principal(self) -> str:
        """The ID as policies write it: without `spiffe://`."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def parse_spiffe_id(text: str) -> SpiffeId:
    """Parse a SPIFFE ID URI; raise `IdentityError` for any other form (SPIFFE-ID §2)."""
    match = _SPIFFE_ID.fullmatch(text)
    if match is None:
        raise IdentityError(
            f"{text!r} is not a SPIFFE ID: want spiffe://<trust domain>/ns/<namespace>/sa/<account>"
        )
    trust_domain, namespace, service_account = match.groups()
    return SpiffeId(trust_domain=trust_domain, namespace=namespace, service_account=service_account)
