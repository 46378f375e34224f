"""The typed border of the compiled engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.errors import IdentityError
from mesh.model.credentials import Credentials
from mesh.tunnel.contract import EndReason, LossReason
from mesh.tunnel.native.core import ENDS, LOSSES, join_headers, make_context, split_headers
from tests.support.certs import TestCa, spiffe

_CA = TestCa()
_GOOD = _CA.issue(spiffe("client"))


def test_every_reason_has_a_number_of_its_own() -> None:
    assert set(LOSSES.values()) == set(LossReason)
    assert set(ENDS.values()) == set(EndReason)


@pytest.mark.parametrize(
    "headers",
    [
        [(b":status", b"200")],
        [(b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80"), (b"x-empty", b"")],
    ],
)
def test_headers_come_back_as_they_went(headers: list[tuple[bytes, bytes]]) -> None:
    text, count = join_headers(headers)
    assert count == len(headers)
    # The engine ends each part with NUL.
    assert split_headers(text + b"\0") == headers


def _with(
    *, chain: bytes | None = None, key: bytes | None = None, roots: bytes | None = None
) -> Credentials:
    return Credentials(
        svid=replace(
            _GOOD.svid,
            chain_pem=_GOOD.svid.chain_pem if chain is None else chain,
            key_pem=_GOOD.svid.key_pem if key is None else key,
        ),
        bundle=replace(_GOOD.bundle, roots_pem=_GOOD.bundle.roots_pem if roots is None else roots),
    )


@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize(
    ("credentials", "what"),
    [
        pytest.param(_with(chain=b""), "certificate chain", id="no-chain"),
        pytest.param(_with(chain=b"junk"), "certificate chain", id="junk-chain"),
        pytest.param(_with(key=b""), "key", id="no-key"),
        pytest.param(_with(key=_CA.issue(spiffe("x")).svid.key_pem), "key", id="other-key"),
        pytest.param(_with(roots=b""), "roots", id="no-roots"),
        pytest.param(
            _with(
                roots=_GOOD.bundle.roots_pem
                + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            ),
            "roots",
            id="broken-second-root",
        ),
    ],
)
def test_unusable_key_material_is_refused(
    credentials: Credentials, what: str, server: bool
) -> None:
    with pytest.raises(IdentityError, match=what) as caught:
        make_context(credentials, server=server)
    assert "PRIVATE" not in str(caught.value)


def test_chains_and_bundles_of_several_certificates_are_taken() -> None:
    other = TestCa("other.local")
    credentials = _with(
        chain=_GOOD.svid.chain_pem + other.root_pem, roots=_GOOD.bundle.roots_pem + other.root_pem
    )
    make_context(credentials, server=True)
