"""The certificate authority's rules: what is signed, for whom, by which root.

Pure: the state, the clock's reading and random bytes are passed in. It never signs an identity
that does not run on the asking node, a CA certificate, or any name but the one SPIFFE ID.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.errors import IdentityError
from mesh.identity import profiles
from mesh.identity.csr import VerifiedRequest, parse_csr, spiffe_san
from mesh.identity.directory import IdentityDirectory
from mesh.identity.errors import RefusedError
from mesh.identity.roots import CaState, RotationTiming, SigningRoot
from mesh.model.identity import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class CaSettings:
    """Lifetimes, in seconds.

    Attributes:
        leaf_lifetime_s: from signing to expiry; cut to the signer's own expiry.
        skew_s: how far not-before lies in the past, for nodes whose clock is behind.
        publish_s: how long a new root is in the bundle before it signs.
        overlap_s: kept after the last leaf of a retiring root expired.
    """

    leaf_lifetime_s: float = 86400.0
    skew_s: float = 600.0
    publish_s: float = 3600.0
    overlap_s: float = 3600.0

    @property
    def timing(self) -> RotationTiming:
        """Stages of a root that follow from the lifetimes."""
        return RotationTiming(
            publish_s=self.publish_s, retire_s=self.leaf_lifetime_s + self.overlap_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedChain:
    """A signed leaf and the intermediates under it, PEM, leaf first; the root is not in it."""

    identity: SpiffeId
    chain_pem: bytes
    serial: str


class CertificateAuthority:
    """Signs leaves under the active root of a state."""

    def __init__(
        self,
        *,
        directory: IdentityDirectory,
        settings: CaSettings,
        random_bytes: profiles.RandomBytes,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._random_bytes = random_bytes

    def sign(self, state: CaState, csr_pem: bytes, *, node: str, now: float) -> IssuedChain:
        """Sign a request of an authenticated node.

        Raises `BadRequestError` for a request that cannot be read, `RefusedError` for one the
        node has no right to, `IdentityError` if this CA cannot sign at all.
        """
        request = parse_csr(csr_pem)
        self._authorise(request.identity, state.trust_domains[0], node)
        leaf = self._leaf(request, state.active, now)
        return IssuedChain(
            identity=request.identity,
            chain_pem=leaf.public_bytes(Encoding.PEM) + state.active.chain_pem,
            serial=f"{leaf.serial_number:x}",
        )

    def _authorise(self, identity: SpiffeId, trust_domain: str, node: str) -> None:
        if identity.trust_domain != trust_domain:
            raise RefusedError(
                f"{identity} is outside the trust domain {trust_domain!r} of this CA"
            )
        if not self._directory.runs_on(identity, node):
            raise RefusedError(
                f"no workload of the mesh with identity {identity} runs on node {node!r}"
            )

    def _leaf(self, request: VerifiedRequest, root: SigningRoot, now: float) -> x509.Certificate:
        signer = profiles.load_certificates(root.signer_pem)[0]
        issued_at = datetime.fromtimestamp(int(now), UTC)
        if not signer.not_valid_before_utc <= issued_at < signer.not_valid_after_utc:
            raise IdentityError(
                f"the CA's signing certificate is valid from {signer.not_valid_before_utc} to "
                f"{signer.not_valid_after_utc}, not now: rotate the root"
            )
        lifetime = timedelta(seconds=self._settings.leaf_lifetime_s)
        not_before = issued_at - timedelta(seconds=self._settings.skew_s)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(signer.subject)
            .public_key(request.public_key)
            .serial_number(profiles.serial_number(self._random_bytes))
            .not_valid_before(max(not_before, signer.not_valid_before_utc))
            .not_valid_after(min(issued_at + lifetime, signer.not_valid_after_utc))
            .add_extension(spiffe_san(request.identity), critical=True)
        )
        uses = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
        return profiles.sign_leaf(builder, uses, signer, profiles.load_signing_key(root.key_pem))
