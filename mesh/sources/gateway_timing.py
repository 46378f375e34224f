"""Timeouts, retries and sessions of a rule."""

from __future__ import annotations

from mesh.model.routing import Retry, SessionPersistence, SessionType, Timeouts
from mesh.sources.fields import FieldError, FieldPath
from mesh.sources.gateway_schema import RetrySpec, SessionSpec, TimeoutsSpec
from mesh.sources.http_fields import (
    parse_between,
    parse_header_name,
    parse_limit,
    parse_positive_duration,
)


def read_timeouts(spec: TimeoutsSpec, at: FieldPath) -> Timeouts:
    """Read timeouts (GEP-1742)."""
    request = parse_limit(spec.request, (*at, "request"))
    backend = parse_limit(spec.backend_request, (*at, "backendRequest"))
    if request is not None and backend is not None and backend > request:
        message = "backendRequest must not be longer than request"
        raise FieldError((*at, "backendRequest"), message)
    return Timeouts(request_s=request, backend_request_s=backend)


def read_retry(spec: RetrySpec | None, at: FieldPath) -> Retry | None:
    """Read retry (GEP-1731)."""
    if spec is None:
        return None
    for number, code in enumerate(spec.codes):
        parse_between(code, 400, 599, (*at, "codes", number))
    backoff = spec.backoff
    return Retry(
        codes=spec.codes,
        attempts=parse_between(spec.attempts, 1, 100, (*at, "attempts")),
        backoff_s=(None if backoff is None else parse_positive_duration(backoff, (*at, "backoff"))),
    )


def read_session(spec: SessionSpec | None, at: FieldPath) -> SessionPersistence | None:
    """Read sessionPersistence (GEP-1619)."""
    if spec is None:
        return None
    if spec.type not in tuple(SessionType):
        raise FieldError((*at, "type"), f"{spec.type!r} is not Cookie or Header")
    lifetime = spec.cookie_config.lifetime_type
    if lifetime not in ("Session", "Permanent"):
        own = (*at, "cookieConfig", "lifetimeType")
        raise FieldError(own, f"{lifetime!r} is not Session or Permanent")
    if lifetime == "Permanent" and spec.absolute_timeout is None:
        message = "a Permanent cookie needs absoluteTimeout"
        raise FieldError((*at, "absoluteTimeout"), message, at_key=True)
    if spec.session_name:
        parse_header_name(spec.session_name, (*at, "sessionName"))
    kind = SessionType(spec.type)
    name = spec.session_name.lower() if kind is SessionType.HEADER else spec.session_name
    return SessionPersistence(
        kind=kind,
        name=name,
        absolute_timeout_s=parse_limit(spec.absolute_timeout, (*at, "absoluteTimeout")),
        idle_timeout_s=parse_limit(spec.idle_timeout, (*at, "idleTimeout")),
        permanent=lifetime == "Permanent",
    )
