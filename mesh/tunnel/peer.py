"""Check the identity in a peer's certificate. Chain, dates and usage were checked by TLS."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509

from mesh.errors import IdentityError
from mesh.model.identity import SpiffeId, parse_spiffe_id


@dataclass(frozen=True, slots=True)
class VerifiedPeer:
    """What a certificate proves, and until when (epoch seconds)."""

    identity: SpiffeId
    expires_at: float


def verify_peer(
    der: bytes | None, trust_domains: Collection[str], expected: Collection[SpiffeId]
) -> VerifiedPeer:
    """Return the SPIFFE ID of a leaf certificate (X509-SVID §2, §5.2) and its end.

    `expected` empty means any identity of the trust domains. Raises `IdentityError`, whose text
    says which check failed.
    """
    if der is None:
        raise IdentityError("peer sent no certificate")
    certificate = _load(der)
    identity = parse_spiffe_id(_uri_san(certificate))
    if identity.trust_domain not in trust_domains:
        raise IdentityError(
            f"trust domain {identity.trust_domain} of {identity} is not trusted,"
            f" only {', '.join(trust_domains)}"
        )
    if expected and identity not in expected:
        wanted = ", ".join(sorted(map(str, expected)))
        raise IdentityError(f"expected one of {wanted}; got {identity}")
    return VerifiedPeer(identity, certificate.not_valid_after_utc.timestamp())


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"peer certificate cannot be read: {error}") from error


def _uri_san(certificate: x509.Certificate) -> str:
    try:
        extensions = certificate.extensions
        constraints = _basic_constraints(extensions)
        names = _alternative_names(extensions)
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise IdentityError(f"peer certificate cannot be read: {error}") from error
    if constraints is not None and constraints.ca:
        raise IdentityError("peer certificate is a CA certificate, not a leaf")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) != 1:
        # X509-SVID §2: exactly one; with several, which one counts would be the reader's guess.
        raise IdentityError(
            "peer certificate has no SPIFFE ID"
            if not uris
            else f"peer certificate has {len(uris)} URI names, a SPIFFE certificate has one"
        )
    return uris[0]


def _basic_constraints(extensions: x509.Extensions) -> x509.BasicConstraints | None:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _alternative_names(extensions: x509.Extensions) -> x509.SubjectAlternativeName | None:
    try:
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
