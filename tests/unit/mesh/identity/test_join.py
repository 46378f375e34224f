"""Join tokens: bound to a node, hashed, revocable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.identity.errors import BadTokenError
from mesh.identity.join import TokenBook, parse_token
from tests.unit.mesh.identity.builders import NOW, random_bytes

PIN = "ab" * 32


def book_with(*nodes: str) -> tuple[TokenBook, list[str]]:
    book, texts = TokenBook(), []
    for node in nodes:
        book, token = book.create(node, root_sha256=PIN, now=NOW, random_bytes=random_bytes)
        texts.append(token.format())
    return book, texts


def test_a_token_speaks_for_its_node() -> None:
    book, (first, second) = book_with("node-a", "b.example.org")
    assert book.authenticate(first) == "node-a"
    assert book.authenticate(f" {second}\n") == "b.example.org"
    assert parse_token(second).root_sha256 == PIN


def test_a_token_of_one_node_does_not_speak_for_another() -> None:
    book, (first, _) = book_with("node-a", "node-b")
    with pytest.raises(BadTokenError, match="unknown or revoked"):
        book.authenticate(first.replace("node-a", "node-b"))


def test_revoked_means_refused() -> None:
    book, (first, second) = book_with("node-a", "node-a")
    book = book.revoke(book.records[0].token_id)
    with pytest.raises(BadTokenError):
        book.authenticate(first)
    assert book.authenticate(second) == "node-a"
    with pytest.raises(ConfigError, match="no join token"):
        book.revoke("nonesuch")


def test_the_secret_is_not_kept_and_not_shown() -> None:
    book, (text,) = book_with("node-a")
    secret = parse_token(text).secret
    assert secret not in repr(parse_token(text))
    assert secret not in repr(book)
    assert book.records[0].secret_sha256 != secret


@pytest.mark.parametrize("text", ["", "mn1", "mn2.a.b.c", "mn1.a.b.c", "mn1..x.y", "x" * 5000])
def test_malformed_tokens(text: str) -> None:
    with pytest.raises(BadTokenError, match="not a join token"):
        parse_token(text)


def test_the_complaint_does_not_repeat_the_secret() -> None:
    secret = "5e" * 32
    with pytest.raises(BadTokenError) as failure:
        parse_token(f"mn1.NODE.{secret}.{PIN}")
    assert secret not in str(failure.value)


def test_node_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="node name"):
        TokenBook().create("Node A", root_sha256=PIN, now=NOW, random_bytes=random_bytes)


@given(st.text(max_size=300))
def test_any_text_is_refused_as_a_bad_token(text: str) -> None:
    book, _ = book_with("node-a")
    with pytest.raises(BadTokenError):
        book.authenticate(text)
