"""A client cannot say who it is, however it spells it."""

from __future__ import annotations

from random import Random

import pytest

from mesh.http1.message import Framing, RequestHead
from mesh.model.identity import SpiffeId
from waypoint.exchange.forward_headers import (
    IDENTITY_FIELDS,
    caller_fields,
    passed_trailers,
    prepare_request,
)

CALLER = SpiffeId(trust_domain="t", namespace="shop", service_account="client")
OWN = SpiffeId(trust_domain="t", namespace="shop", service_account="gate")


def sent(*headers: tuple[bytes, bytes], caller: SpiffeId | None = CALLER) -> RequestHead:
    head = RequestHead(
        method=b"GET",
        target=b"/",
        host=b"w",
        headers=list(headers),
        minor=1,
        framing=Framing.NONE,
        length=None,
        keep_alive=True,
    )
    prepare_request(head, caller_fields(caller, OWN, "10.0.0.1"), Random(1))
    return head


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-client-cert",
        b"x_forwarded_client_cert",
        b"x-forwarded_client-cert",
        b"x-envoy-peer-metadata",
        b"x-envoy-internal",
        b"x-envoy-original-path",
        b"l5d-client-id",
        b"x-meshnode-principal",
    ],
)
@pytest.mark.parametrize("caller", [CALLER, None])
def test_claims_of_a_client_are_dropped(name: bytes, caller: SpiffeId | None) -> None:
    head = sent((name, b"URI=spiffe://evil"), (name, b"again"), caller=caller)
    assert b"evil" not in b"".join(value for _, value in head.headers)
    assert name in IDENTITY_FIELDS
    names = [own for own, _ in head.headers]
    assert names.count(b"x-forwarded-client-cert") == (caller is not None)


def test_the_caller_is_named_as_envoy_does() -> None:
    fields = dict(sent().headers)
    assert fields[b"x-forwarded-client-cert"] == (
        b"By=spiffe://t/ns/shop/sa/gate;URI=spiffe://t/ns/shop/sa/client"
    )


def test_trailers_claim_nothing_either() -> None:
    trailers = [
        (b"grpc-status", b"0"),
        (b"x-forwarded-client-cert", b"evil"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x_forwarded_client_cert", b"evil"),
    ]
    assert passed_trailers(trailers) == [(b"grpc-status", b"0")]
