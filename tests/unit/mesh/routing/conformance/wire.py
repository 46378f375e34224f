"""Cases that only real bytes can run: time, faults of backends, protocols of backends."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.model import (
    Ask,
    Case,
    Play,
    Want,
    route,
    services,
    to,
    v,
)

V1, V2, V3 = to("echo-v1"), to("echo-v2"), to("echo-v3")
_ENDLESS_S = 30.0
"""Longer than any timeout here: only a timeout ends it."""
_LATE = Play(delay_s=_ENDLESS_S)
_RESET = Play(reset=True)


def _rule(path: str, more: str, backend: str = V3) -> str:
    return f"  - matches: [{{path: {{value: {path}}}}}]\n    {more}\n    backendRefs: [{backend}]\n"


def _ask(path: str, *plays: Play) -> Ask:
    return Ask(path=path, plays=plays)


def _codes(path: str, code: int, failures: int, attempts: int) -> tuple[Ask, Want]:
    """Fails some times with a code, which is hidden if there are attempts enough."""
    asked = _ask(path, *(Play(status=code) for _ in range(failures)))
    if failures <= attempts:
        return asked, Want(backend="echo-v3", tries=failures + 1)
    return asked, Want(backend="echo-v3", status=code, tries=attempts + 1)


_RETRY = route(
    "  rules:\n"
    + _rule("/code-500-attempts-3", "retry: {codes: [500], attempts: 3, backoff: 1ms}")
    + _rule(
        "/code-all-attempts-2", "retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}"
    )
)
_RETRY_ASKS = (
    _codes("/code-500-attempts-3", 500, 2, 3),
    _codes("/code-500-attempts-3", 500, 4, 3),
    _codes("/code-500-attempts-3", 503, 2, 0),
    *(
        _codes("/code-all-attempts-2", code, failures, 2)
        for code in (500, 502, 503, 504)
        for failures in (1, 3)
    ),
)
_WITH_TIMEOUTS = route(
    "  rules:\n"
    + _rule("/backend-200ms", "retry: {attempts: 2}\n    timeouts: {backendRequest: 200ms}")
    + _rule(
        "/request-400ms",
        "retry: {codes: [500], attempts: 5, backoff: 1ms}\n"
        "    timeouts: {backendRequest: 200ms, request: 400ms}",
    )
)
_SLOW_500 = Play(status=500, delay_s=0.15)

CASES = (
    Case(
        name="MeshFrontend",
        objects=services()
        + route(
            "  rules:\n  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier:"
            " {set: [{name: x-header-set, value: set}]}}]\n"
            f"    backendRefs: [{V2}]\n",
            parent="name: echo-v2",
        ),
        exchanges=(
            (Ask(service="echo-v2"), Want(backend="echo-v2", headers={"x-header-set": "set"})),
            (Ask(pod="echo-v2"), Want(backend="echo-v2", unset=("x-header-set",))),
            (Ask(service="echo-v1"), Want(backend="echo-v1", unset=("x-header-set",))),
        ),
    ),
    Case(
        name="HTTPRouteBackendProtocolH2C",
        objects=services() + route(f"  rules: [{{backendRefs: [{to('echo-v1', 7070)}]}}]\n"),
        exchanges=((Ask(), Want(backend="echo-v1", protocol="HTTP/2")),),
    ),
    Case(
        name="HTTPRouteBackendProtocolWebSocket",
        objects=services() + route(f"  rules: [{{backendRefs: [{to('echo-v1', 8082)}]}}]\n"),
        exchanges=(
            (
                Ask(
                    upgraded=True,
                    headers=(
                        ("connection", "upgrade"),
                        ("upgrade", "websocket"),
                        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ),
                ),
                Want(status=101, backend="echo-v1", protocol="HTTP/1.1"),
            ),
        ),
    ),
    Case(
        name="HTTPRouteTimeoutRequest",
        objects=services()
        + route(
            "  rules:\n"
            + _rule("/timeout", "timeouts: {request: 300ms}", V1)
            + _rule("/disabled", "timeouts: {request: 0s}", V1)
        ),
        exchanges=(
            (_ask("/timeout"), v(1)),
            (_ask("/timeout", _LATE), Want(status=504, backend="echo-v1")),
            (_ask("/disabled", Play(delay_s=0.4)), v(1)),
        ),
    ),
    Case(
        name="HTTPRouteTimeoutBackendRequest",
        objects=services()
        + route(
            "  rules:\n"
            + _rule("/timeout", "timeouts: {backendRequest: 300ms}", V1)
            + _rule("/disabled", "timeouts: {backendRequest: 0s}", V1)
        ),
        exchanges=(
            (_ask("/timeout"), v(1)),
            (_ask("/timeout", _LATE), Want(status=504, backend="echo-v1")),
            (_ask("/disabled", Play(delay_s=0.4)), v(1)),
        ),
    ),
    Case(name="HTTPRouteRetry", objects=services() + _RETRY, exchanges=_RETRY_ASKS),
    Case(
        name="HTTPRouteRetryConnectionError",
        objects=services() + route("  rules:\n" + _rule("/", "retry: {attempts: 3, backoff: 1ms}")),
        exchanges=(
            (_ask("/", _RESET, _RESET), Want(backend="echo-v3", tries=3)),
            (
                _ask("/", _RESET, _RESET, _RESET, _RESET),
                Want(backend="echo-v3", statuses=(500, 503), tries=4),
            ),
        ),
    ),
    Case(
        name="HTTPRouteRetryWithTimeouts",
        objects=services() + _WITH_TIMEOUTS,
        exchanges=(
            (_ask("/backend-200ms", _LATE, _LATE), Want(backend="echo-v3", tries=3)),
            (
                _ask("/backend-200ms", _LATE, _LATE, _LATE),
                Want(backend="echo-v3", status=504, tries=3),
            ),
            (_ask("/request-400ms", Play(status=500)), Want(backend="echo-v3", tries=2)),
            (
                _ask("/request-400ms", *(_SLOW_500 for _ in range(4))),
                Want(backend="echo-v3", status=504, tries=-1),
            ),
        ),
    ),
)
