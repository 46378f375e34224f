"""A certificate authority for tests: real certificates, also wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.model.credentials import Credentials, Svid, TrustBundle
from mesh.model.identity import SpiffeId

_DAY = timedelta(days=1)
_BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def spiffe(account: str, *, namespace: str = "test", trust_domain: str = "mesh.local") -> SpiffeId:
    return SpiffeId(trust_domain=trust_domain, namespace=namespace, service_account=account)


class TestCa:
    """A root that signs leaves directly."""

    __test__ = False  # not a test class, whatever its name looks like

    def __init__(self, trust_domain: str = "mesh.local") -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} root")])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
        )
        self.root_pem = _pem(builder.sign(self._key, hashes.SHA256()))

    def bundle(self, *others: TestCa, trust_domains: Sequence[str] = ()) -> TrustBundle:
        """This root, and those of `others`; trust domains of all unless named."""
        authorities = (self, *others)
        return TrustBundle(
            trust_domains=tuple(trust_domains) or tuple(ca.trust_domain for ca in authorities),
            roots_pem=b"".join(ca.root_pem for ca in authorities),
        )

    def issue(
        self,
        identity: SpiffeId,
        *,
        expired: bool = False,
        not_yet_valid: bool = False,
        uris: Sequence[str] | None = None,
        dns_names: Sequence[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = _BOTH_USAGES,
        is_ca: bool = False,
        bundle: TrustBundle | None = None,
    ) -> Credentials:
        """Sign a leaf for `identity`.

        `uris` replaces its SPIFFE ID as the URI names (empty: none at all); `bundle` is whom the
        holder trusts, by default this authority.
        """
        begin, end = _lifetime(expired, not_yet_valid)
        key = ec.generate_private_key(ec.SECP256R1())
        uris = [str(identity)] if uris is None else uris
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names.extend(x509.DNSName(name) for name in dns_names)
        builder = (
            self._leaf(key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(self._key, hashes.SHA256())
        svid = Svid(
            identity=identity,
            chain_pem=_pem(leaf),
            key_pem=_key_pem(key),
            not_before=begin.timestamp(),
            not_after=end.timestamp(),
            serial=f"{leaf.serial_number:x}",
        )
        return Credentials(svid=svid, bundle=bundle or self.bundle())

    def _leaf(
        self, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(authority, critical=False)
        )


def _lifetime(expired: bool, not_yet_valid: bool) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    if expired:
        return now - 2 * _DAY, now - _DAY
    if not_yet_valid:
        return now + _DAY, now + 2 * _DAY
    return now - timedelta(hours=1), now + _DAY


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
