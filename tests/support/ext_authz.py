"""Envoy's messages for external authorizers, as an independent implementation has them."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies, at import
    from envoy_data_plane.envoy.config.core.v3 import (
        HeaderValue,
        HeaderValueOption,
        QueryParameter,
    )
    from envoy_data_plane.envoy.service.auth.v3 import (
        AttributeContextHttpRequest,
        CheckRequest,
        CheckResponse,
        DeniedHttpResponse,
        OkHttpResponse,
    )
    from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
    from envoy_data_plane.google.rpc import Status

__all__ = [
    "AttributeContextHttpRequest",
    "CheckRequest",
    "CheckResponse",
    "DeniedHttpResponse",
    "HeaderValue",
    "HeaderValueOption",
    "HttpStatus",
    "OkHttpResponse",
    "QueryParameter",
    "Status",
    "StatusCode",
]


def header(key: str, value: str, *, append: bool | None = None) -> HeaderValueOption:
    """A header that an authorizer sets or adds."""
    return HeaderValueOption(header=HeaderValue(key=key, value=value), append=append)


def http_of(asked: CheckRequest) -> AttributeContextHttpRequest:
    """The request that was asked about."""
    assert asked.attributes is not None
    assert asked.attributes.request is not None
    assert asked.attributes.request.http is not None
    return asked.attributes.request.http
