"""Sessions that lead a caller back."""

from __future__ import annotations

import pytest

from mesh.model.routing import RouteKey, SessionPersistence, SessionType
from mesh.routing.session import (
    Session,
    find_endpoint,
    read_session,
    session_header,
    session_name,
)

NOW = 1_700_000_000
COOKIE = SessionPersistence(name="S")
HEADER = SessionPersistence(kind=SessionType.HEADER, name="x-s")
PERMANENT = SessionPersistence(name="S", absolute_timeout_s=100, permanent=True)
IDLE = SessionPersistence(name="S", idle_timeout_s=10)


def begin(rules: SessionPersistence, now: int = NOW) -> dict[str, str]:
    """The request headers that follow a first response."""
    header = session_header(rules, "S", "pod/shop/a", now)
    assert header is not None
    name, value = header
    return {"cookie": value.split(";")[0]} if name == "set-cookie" else {name: value}


def test_a_cookie_leads_back() -> None:
    session = read_session(COOKIE, "S", begin(COOKIE), NOW + 5)
    assert session is not None
    assert find_endpoint(session, ["pod/shop/b", "pod/shop/a"]) == "pod/shop/a"
    assert find_endpoint(session, ["pod/shop/b"]) is None
    assert session_header(COOKIE, "S", "pod/shop/a", NOW + 5, session) is None
    moved = session_header(COOKIE, "S", "pod/shop/b", NOW + 5, session)
    assert moved is not None
    assert moved[1].endswith("; Path=/; HttpOnly")


def test_a_header_leads_back() -> None:
    assert read_session(HEADER, "S", begin(HEADER), NOW) is not None


def test_a_permanent_cookie_ends() -> None:
    header = session_header(PERMANENT, "S", "a", NOW, secure=True)
    assert header is not None
    assert header[1].endswith("; Path=/; HttpOnly; Max-Age=100; Secure")
    headers = begin(PERMANENT)
    assert read_session(PERMANENT, "S", headers, NOW + 99) is not None
    assert read_session(PERMANENT, "S", headers, NOW + 100) is None


def test_an_idle_session_ends_and_a_used_one_goes_on() -> None:
    headers = begin(IDLE)
    session = read_session(IDLE, "S", headers, NOW + 9)
    assert session is not None
    assert read_session(IDLE, "S", headers, NOW + 10) is None
    renewed = session_header(IDLE, "S", "pod/shop/a", NOW + 9, session)
    assert renewed is not None
    again = read_session(IDLE, "S", {"cookie": renewed[1].split(";")[0]}, NOW + 18)
    assert again is not None
    assert again.created_at == NOW


@pytest.mark.parametrize("token", ["", "x", "1-2-3", "-", "f" * 11 + "-0-" + "0" * 16])
def test_tokens_that_make_no_sense(token: str) -> None:
    assert read_session(HEADER, "x-s", {"x-s": token}, NOW) is None


def test_a_token_from_the_future() -> None:
    token = Session(endpoint=1, created_at=NOW + 100, used_at=NOW).token()
    assert read_session(HEADER, "x-s", {"x-s": token}, NOW) is None


def test_names() -> None:
    route = RouteKey("HTTPRoute/shop/r")
    assert session_name(COOKIE, route, 0) == "S"
    made = session_name(SessionPersistence(), route, 0)
    assert made == session_name(SessionPersistence(), route, 0)
    assert made != session_name(SessionPersistence(), route, 1)
