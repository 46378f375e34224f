"""The CA's rules: whom it signs for, what a leaf looks like, and given roots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import IdentityError
from mesh.identity import profiles
from mesh.identity.ca import CaSettings
from mesh.identity.csr import format_key, generate_key, new_request
from mesh.identity.errors import RefusedError
from mesh.identity.roots import CaState, SigningRoot, initial_state
from tests.unit.mesh.identity.builders import (
    NODE,
    NOW,
    TRUST_DOMAIN,
    Placements,
    authority,
    ca_state,
    root,
    spiffe,
)


def leaf_of(state: CaState, settings: CaSettings, now: float = NOW) -> x509.Certificate:
    request = new_request(spiffe())
    issued = authority(settings).sign(state, request.csr_pem, node=NODE, now=now)
    svid = profiles.check_svid(request, issued.chain_pem)
    assert svid.serial == issued.serial
    return profiles.load_certificates(svid.chain_pem)[0]


def test_a_leaf_has_the_profile_of_a_svid() -> None:
    leaf = leaf_of(ca_state(), CaSettings(leaf_lifetime_s=10, skew_s=3))
    extensions = leaf.extensions
    assert leaf.not_valid_before_utc.timestamp() == NOW - 3
    assert leaf.not_valid_after_utc.timestamp() == NOW + 10
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [str(spiffe())]


def test_serials_differ() -> None:
    state = ca_state()
    serials = {leaf_of(state, CaSettings()).serial_number for _ in range(5)}
    assert len(serials) == 5


def test_a_leaf_never_outlives_its_signer() -> None:
    short = initial_state(root(lifetime_s=100), [TRUST_DOMAIN], NOW)
    assert leaf_of(short, CaSettings()).not_valid_after_utc.timestamp() == NOW + 100


def test_an_expired_signer_does_not_sign() -> None:
    short = initial_state(root(lifetime_s=100), [TRUST_DOMAIN], NOW)
    with pytest.raises(IdentityError, match="rotate the root"):
        leaf_of(short, CaSettings(), now=NOW + 100)


@pytest.mark.parametrize(
    ("account", "trust_domain", "node", "reason"),
    [
        ("web", TRUST_DOMAIN, "node-b", "runs on node 'node-b'"),
        ("db", TRUST_DOMAIN, NODE, "no workload of the mesh"),
        ("web", "elsewhere", NODE, "outside the trust domain"),
    ],
)
def test_refusals_say_why(account: str, trust_domain: str, node: str, reason: str) -> None:
    request = new_request(spiffe(account, trust_domain=trust_domain))
    with pytest.raises(RefusedError, match=reason):
        authority().sign(ca_state(), request.csr_pem, node=node, now=NOW)


def test_an_alias_is_in_the_bundle_but_not_signed() -> None:
    state = initial_state(root(), [TRUST_DOMAIN, "old.example"], NOW)
    identity = spiffe(trust_domain="old.example")
    assert state.bundle.trust_domains == (TRUST_DOMAIN, "old.example")
    with pytest.raises(RefusedError):
        authority(directory=Placements({(identity, NODE)})).sign(
            state, new_request(identity).csr_pem, node=NODE, now=NOW
        )


def test_a_certificate_for_another_request_is_not_taken() -> None:
    state, ours, other = ca_state(), new_request(spiffe()), new_request(spiffe())
    issued = authority().sign(state, other.csr_pem, node=NODE, now=NOW)
    with pytest.raises(IdentityError, match="another key"):
        profiles.check_svid(ours, issued.chain_pem)


def intermediate(parent: SigningRoot, *, ca: bool = True) -> tuple[bytes, bytes]:
    """Certificate and key of an intermediate CA under a root of two levels."""
    signer = profiles.load_certificates(parent.roots_pem)[0]
    key = generate_key()
    begin = datetime.fromtimestamp(NOW, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "intermediate")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(profiles.key_usage(signs_certificates=ca), critical=True)
        .sign(profiles.load_signing_key(parent.key_pem), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), format_key(key)


def test_a_given_intermediate_signs_and_travels_with_the_leaf() -> None:
    parent = root()
    chain, key = intermediate(parent)
    given = profiles.given_root(
        cert_chain_pem=chain + parent.roots_pem, key_pem=key, root_pem=parent.roots_pem, now=NOW
    )
    state = initial_state(given, [TRUST_DOMAIN], NOW)
    issued = authority().sign(state, new_request(spiffe()).csr_pem, node=NODE, now=NOW)
    assert len(profiles.load_certificates(issued.chain_pem)) == 2
    assert state.bundle.roots_pem.strip() == parent.roots_pem.strip()


def test_a_given_root_may_sign_by_itself() -> None:
    own = root()
    given = profiles.given_root(
        cert_chain_pem=own.roots_pem, key_pem=own.key_pem, root_pem=own.roots_pem, now=NOW
    )
    assert given == own


def test_given_files_that_do_not_fit_are_refused() -> None:
    parent, stranger = root(), root()
    chain, key = intermediate(parent)
    leaf, leaf_key = intermediate(parent, ca=False)
    p384 = format_key(ec.generate_private_key(ec.SECP384R1()))
    for cert_chain, key_pem, root_pem, now, reason in (
        (chain, p384, parent.roots_pem, NOW, "does not belong"),
        (chain, key, stranger.roots_pem, NOW, "not signed by any"),
        (leaf, leaf_key, parent.roots_pem, NOW, "may not sign"),
        (chain, key, parent.roots_pem, NOW + 86400 * 31, "not valid now"),
        (b"x", key, parent.roots_pem, NOW, "do not parse"),
        (chain, b"x", parent.roots_pem, NOW, "does not parse"),
    ):
        with pytest.raises(IdentityError, match=reason):
            profiles.given_root(
                cert_chain_pem=cert_chain, key_pem=key_pem, root_pem=root_pem, now=now
            )


def test_a_certificate_is_good_for_a_clock_that_is_five_minutes_behind() -> None:
    leaf = leaf_of(ca_state(), CaSettings())
    assert leaf.not_valid_before_utc.timestamp() <= NOW - 300
