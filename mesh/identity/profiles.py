"""X.509 profiles: how roots and leaves look, and how given ones are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from mesh.errors import IdentityError
from mesh.identity.csr import SigningRequest, format_key, generate_key
from mesh.identity.roots import SigningRoot
from mesh.model.credentials import Svid
from mesh.model.identity import parse_spiffe_id

RandomBytes = Callable[[int], bytes]
"""Returns so many unpredictable bytes."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ROOT_LIFETIME_S = 3650 * 86400.0
"""Ten years, as long as other meshes' generated roots; rotation does not wait for it."""


def serial_number(random_bytes: RandomBytes) -> int:
    """159 random bits, never zero: positive and at most 20 octets (RFC 5280 §4.1.2.2)."""
    return (int.from_bytes(random_bytes(20), "big") >> 1) | 1


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Every certificate of a PEM text, at least one; raise `IdentityError`."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"certificates do not parse: {error}") from error
    if not certificates:
        raise IdentityError("no certificate where one was expected")
    return certificates


def load_signing_key(key_pem: bytes) -> SigningKey:
    """A private key from PEM; raise `IdentityError` for a kind no CA of ours has."""
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the CA's key does not parse: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise IdentityError("the CA's key must be EC or RSA")
    return key


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """keyCertSign and cRLSign for a CA, digitalSignature for a leaf (X.509-SVID §4.3)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def sign_leaf(
    builder: x509.CertificateBuilder,
    uses: Sequence[x509.ObjectIdentifier],
    signer: x509.Certificate,
    key: SigningKey,
) -> x509.Certificate:
    """Add what every leaf has, and sign: no CA, digital signatures only, the signer's key id."""
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(uses)), critical=False)
        .add_extension(_authority_key_id(signer), critical=False)
        .sign(key, hashes.SHA256())
    )


def new_root(
    name: str, now: float, random_bytes: RandomBytes, lifetime_s: float = ROOT_LIFETIME_S
) -> SigningRoot:
    """A self-signed P-256 root that may sign leaves only. `name` tells people whose it is."""
    key = generate_key()
    # The serial in the name keeps two roots of one rotation apart: chains are built by name.
    serial = serial_number(random_bytes)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"meshnode root {serial & 0xFFFFFFFF:08x}"),
        ]
    )
    begin = datetime.fromtimestamp(int(now), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begin - timedelta(minutes=5))
        .not_valid_after(begin + timedelta(seconds=lifetime_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return SigningRoot(
        roots_pem=certificate.public_bytes(Encoding.PEM), chain_pem=b"", key_pem=format_key(key)
    )


def given_root(
    *, cert_chain_pem: bytes, key_pem: bytes, root_pem: bytes, now: float
) -> SigningRoot:
    """A signing root from a person's own PKI; raise `IdentityError` that says what does not fit.

    Args:
        cert_chain_pem: the signing CA's certificate, then its intermediates; the root may follow.
        root_pem: one or several roots.
    """
    roots = load_certificates(root_pem)
    chain = load_certificates(cert_chain_pem)
    if load_signing_key(key_pem).public_key() != chain[0].public_key():
        raise IdentityError("the CA's key does not belong to the first certificate of its chain")
    intermediates = [certificate for certificate in chain if certificate not in roots]
    for certificate in (*intermediates, *roots):
        _check_signer(certificate, now)
    issuers = [*intermediates[1:], None]
    for certificate, issuer in zip(intermediates, issuers, strict=False):
        candidates = [issuer] if issuer else roots
        if not any(_is_issued_by(certificate, candidate) for candidate in candidates):
            raise IdentityError(
                f"{certificate.subject.rfc4514_string()!r} of the CA's chain is not signed by "
                + ("the certificate after it" if issuer else "any of the given roots")
            )
    if not intermediates and chain[0] != roots[0]:
        raise IdentityError("the root that signs must come first in the root file")
    return SigningRoot(
        roots_pem=to_pem(roots),
        chain_pem=to_pem(intermediates),
        key_pem=key_pem,
    )


def check_svid(request: SigningRequest, chain_pem: bytes) -> Svid:
    """The certificate a CA answered a request with; raise `IdentityError` if it is another one."""
    leaf = load_certificates(chain_pem)[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key_matches = load_signing_key(request.key_pem).public_key() == leaf.public_key()
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise IdentityError(f"the CA's certificate is not readable: {error}") from error
    if [parse_spiffe_id(uri) for uri in uris] != [request.identity]:
        raise IdentityError(f"asked for {request.identity}, the CA's certificate is for {uris}")
    if not key_matches:
        raise IdentityError(f"the CA's certificate for {request.identity} has another key")
    return Svid(
        identity=request.identity,
        chain_pem=chain_pem,
        key_pem=request.key_pem,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        serial=f"{leaf.serial_number:x}",
    )


def _check_signer(certificate: x509.Certificate, now: float) -> None:
    name = certificate.subject.rfc4514_string()
    try:
        extensions = certificate.extensions
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise IdentityError(f"{name!r} is not a CA certificate: {error}") from error
    if not is_ca or not usage.key_cert_sign:
        raise IdentityError(f"{name!r} may not sign certificates")
    if (
        not certificate.not_valid_before_utc.timestamp()
        <= now
        < (certificate.not_valid_after_utc.timestamp())
    ):
        raise IdentityError(f"{name!r} is not valid now: it ends {certificate.not_valid_after_utc}")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates as one PEM text, in order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _authority_key_id(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public = signer.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise IdentityError("the CA's key must be EC or RSA") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
