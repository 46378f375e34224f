"""TLS between a node and the CA: TLS 1.3, server certificate under a root of its own.

That root is not one of the mesh's: it outlives their rotation, and nodes know it by the
fingerprint in their join token. It signs nothing else, so the server's name is a fixed one and
the CA may be reached by any address.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import IdentityError
from mesh.identity import profiles
from mesh.identity.csr import format_key, generate_key
from mesh.identity.roots import SigningRoot

SERVER_NAME = "ca.meshnode.internal"
SERVER_LIFETIME_S = 90 * 86400.0
RENEW_AFTER_S = 30 * 86400.0


def root_fingerprint(root_pem: bytes) -> str:
    """SHA-256 of the first certificate's DER, hex; as `openssl x509 -fingerprint -sha256`."""
    certificate = profiles.load_certificates(root_pem)[0]
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def issue_server_pem(
    root: SigningRoot,
    *,
    now: float,
    random_bytes: profiles.RandomBytes,
    names: Sequence[str] = (SERVER_NAME,),
) -> bytes:
    """A server certificate with its fresh key, one PEM file as TLS libraries load it.

    Args:
        names: DNS names; another than the fixed one for what others than nodes call.
    """
    signer = profiles.load_certificates(root.roots_pem)[0]
    key = generate_key()
    issued_at = datetime.fromtimestamp(int(now), UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(profiles.serial_number(random_bytes))
        .not_valid_before(issued_at - timedelta(minutes=5))
        .not_valid_after(issued_at + timedelta(seconds=SERVER_LIFETIME_S))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    )
    leaf = profiles.sign_leaf(
        builder,
        (ExtendedKeyUsageOID.SERVER_AUTH,),
        signer,
        profiles.load_signing_key(root.key_pem),
    )
    return leaf.public_bytes(Encoding.PEM) + format_key(key)


def server_context() -> ssl.SSLContext:
    """TLS 1.3 only; the certificate is loaded by `load_server_pem`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def load_server_pem(context: ssl.SSLContext, path: Path) -> None:
    """Use a certificate for every handshake from now on; raise `IdentityError`."""
    try:
        context.load_cert_chain(path)
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(f"{path} cannot be used as server certificate: {error}") from error


def pinned_context(root_pem: bytes) -> ssl.SSLContext:
    """A client's context that trusts exactly one root; ask for `SERVER_NAME`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=root_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise IdentityError(f"the CA's server root cannot be used: {error}") from error
    return context


def discovery_context() -> ssl.SSLContext:
    """Checks nothing: for the one request that fetches the root, which the pin then checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
