"""Signing requests: what is made parses, everything else is refused with a reason."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import IdentityError
from mesh.identity.csr import MAX_CSR_BYTES, generate_key, new_request, parse_csr, spiffe_san
from mesh.identity.errors import BadRequestError
from tests.unit.mesh.identity.builders import spiffe

GOOD = new_request(spiffe()).csr_pem
URI = x509.UniformResourceIdentifier(str(spiffe()))
EMPTY = x509.Name([])


def pem(
    *extensions: tuple[x509.ExtensionType, bool],
    subject: x509.Name = EMPTY,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key or generate_key(), hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_new_request_parses() -> None:
    assert parse_csr(GOOD).identity == spiffe()


def test_the_key_is_not_in_a_representation() -> None:
    assert "PRIVATE" not in repr(new_request(spiffe()))


SAN = (spiffe_san(spiffe()), True)
NAMED = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        (pem(), "0 extensions"),
        (pem((spiffe_san(spiffe()), False)), "must be critical"),
        (pem(SAN, (x509.BasicConstraints(ca=True, path_length=None), True)), "2 extensions"),
        (pem((x509.BasicConstraints(ca=True, path_length=None), True)), "may not be requested"),
        (pem((x509.SubjectAlternativeName([URI, URI]), True)), "exactly one name"),
        (pem((x509.SubjectAlternativeName([x509.DNSName("a.b")]), True)), "exactly one name"),
        (
            pem((x509.SubjectAlternativeName([URI, x509.DNSName("a.b")]), True)),
            "exactly one name",
        ),
        (
            pem((x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://x")]), True)),
            "not a SPIFFE ID",
        ),
        (pem(SAN, subject=NAMED), "must be empty"),
        (pem(SAN, key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(SAN, key=rsa.generate_private_key(65537, 2048)), "P-256"),
        (b"", "exactly one PEM block"),
        (GOOD + GOOD, "exactly one PEM block"),
        (b"hello\n" + GOOD, "exactly one PEM block"),
        (GOOD.replace(b"REQUEST", b"REVERSE"), "exactly one PEM block"),
        (GOOD + b" " * MAX_CSR_BYTES, "the limit is"),
    ],
)
def test_what_a_request_may_not_be(csr: bytes, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        parse_csr(csr)


def test_a_request_signed_by_another_key_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(GOOD).public_bytes(Encoding.DER))
    der[-1] ^= 1  # The last byte belongs to the signature.
    body = base64.encodebytes(bytes(der))
    forged = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(BadRequestError):
        parse_csr(forged)


@given(st.binary(max_size=400))
def test_random_bytes_raise_identity_errors_only(junk: bytes) -> None:
    with pytest.raises(IdentityError):
        parse_csr(junk)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_never_yields_another_identity(position: int, value: int) -> None:
    mutated = bytearray(GOOD)
    mutated[position] = value
    try:
        parsed = parse_csr(bytes(mutated))
    except IdentityError:
        return
    assert parsed.identity == spiffe()


@given(st.binary(max_size=300))
def test_random_der_in_a_valid_envelope_raises_identity_errors_only(der: bytes) -> None:
    body = base64.encodebytes(der)
    with pytest.raises(IdentityError):
        parse_csr(
            b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----"
        )
