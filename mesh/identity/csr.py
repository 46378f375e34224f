"""Certificate signing requests: made by nodes, read by the CA.

A request holds a P-256 key, an empty subject and exactly one extension: a critical subject
alternative name with exactly one URI, the SPIFFE ID (X.509-SVID §2, RFC 5280 §4.2.1.6: with an
empty subject the name is critical). Anything else is refused rather than ignored, so that a
request never means less than its sender thinks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mesh.errors import IdentityError
from mesh.identity.errors import BadRequestError
from mesh.model.identity import SpiffeId, parse_spiffe_id

MAX_CSR_BYTES = 8192
"""A P-256 request with the longest SPIFFE ID is below 1.5 KiB of PEM."""

_BEGIN = b"-----BEGIN CERTIFICATE REQUEST-----"
_END = b"-----END CERTIFICATE REQUEST-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """A fresh key (PKCS #8 PEM) with the PEM request to have it certified."""

    identity: SpiffeId
    csr_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRequest:
    """What a request asks for, after its signature proved possession of the key."""

    identity: SpiffeId
    public_key: ec.EllipticCurvePublicKey


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def format_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def spiffe_san(identity: SpiffeId) -> x509.SubjectAlternativeName:
    """The one name of a request and of a certificate."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])


def new_request(identity: SpiffeId) -> SigningRequest:
    """A signing request for an identity, with a key made for it alone."""
    key = generate_key()
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(spiffe_san(identity), critical=True)
        .sign(key, hashes.SHA256())
    )
    return SigningRequest(
        identity=identity, csr_pem=csr.public_bytes(Encoding.PEM), key_pem=format_key(key)
    )


def parse_csr(pem: bytes) -> VerifiedRequest:
    """Parse an untrusted PEM request; raise `BadRequestError` that says what is wrong."""
    _check_envelope(pem)
    try:
        csr = x509.load_pem_x509_csr(pem)
        if not csr.is_signature_valid:
            raise BadRequestError("the signing request is not signed by the key it holds")
        return VerifiedRequest(identity=_identity(csr), public_key=_public_key(csr))
    except BadRequestError:
        raise
    except IdentityError as error:
        raise BadRequestError(str(error)) from error
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise BadRequestError(f"the signing request does not parse: {error}") from error


def _check_envelope(pem: bytes) -> None:
    if len(pem) > MAX_CSR_BYTES:
        raise BadRequestError(
            f"the signing request has {len(pem)} bytes, the limit is {MAX_CSR_BYTES}"
        )
    text = pem.strip()
    # PEM readers skip text around a block and stop after the first: two readers could see two
    # different requests.
    if not (text.startswith(_BEGIN) and text.endswith(_END) and text.count(b"-----BEGIN") == 1):
        raise BadRequestError("want exactly one PEM block CERTIFICATE REQUEST and nothing else")


def _public_key(csr: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequestError("the key of a signing request must be P-256")
    return key


def _identity(csr: x509.CertificateSigningRequest) -> SpiffeId:
    if len(csr.subject) != 0:
        raise BadRequestError("the subject of a signing request must be empty")
    extensions = list(csr.extensions)
    if len(extensions) != 1:
        raise BadRequestError(
            f"want the subject alternative name as only extension, got {len(extensions)} extensions"
        )
    (extension,) = extensions
    names = extension.value
    if not isinstance(names, x509.SubjectAlternativeName):
        raise BadRequestError(f"extension {extension.oid.dotted_string} may not be requested")
    if not extension.critical:
        raise BadRequestError("the subject alternative name must be critical")
    entries = list(names)
    if len(entries) != 1 or not isinstance(entries[0], x509.UniformResourceIdentifier):
        raise BadRequestError("want exactly one name, a URI, in the subject alternative name")
    return parse_spiffe_id(entries[0].value)
