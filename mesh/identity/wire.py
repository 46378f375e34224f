"""The CA's HTTPS messages, JSON.

POST /v1/certificates           CertificateRequest -> CertificateAnswer
GET  /v1/trust-bundle?revision  -> BundleAnswer, as soon as its revision is another one, or
                                   unchanged after the server's poll time
GET  /v1/server-root            -> PEM; the only one without a token
any failure                     -> ErrorAnswer
"""

from __future__ import annotations

import msgspec

from mesh.identity.authority import NumberedBundle
from mesh.model.credentials import TrustBundle

CERTIFICATES_PATH = "/v1/certificates"
BUNDLE_PATH = "/v1/trust-bundle"
SERVER_ROOT_PATH = "/v1/server-root"

MAX_REQUEST_BYTES = 16 << 10
MAX_ANSWER_BYTES = 1 << 20


class CertificateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`identity` says in clear what the request asks for; both must agree."""

    csr: str
    identity: str


class BundleAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The trust bundle and the CA's number of it."""

    revision: int
    trust_domains: list[str]
    roots: str


class CertificateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The chain, leaf first, and the newest bundle."""

    chain: str
    bundle: BundleAnswer


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request failed; `reason` is a sentence for people."""

    code: str
    reason: str


def bundle_answer(numbered: NumberedBundle) -> BundleAnswer:
    """A bundle as it is sent."""
    return BundleAnswer(
        revision=numbered.revision,
        trust_domains=list(numbered.bundle.trust_domains),
        roots=numbered.bundle.roots_pem.decode(),
    )


def numbered_bundle(answer: BundleAnswer) -> NumberedBundle:
    """A bundle as it was received; its roots are checked by who uses them."""
    return NumberedBundle(
        revision=answer.revision,
        bundle=TrustBundle(
            trust_domains=tuple(answer.trust_domains), roots_pem=answer.roots.encode()
        ),
    )
