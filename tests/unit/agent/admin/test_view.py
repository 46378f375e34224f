"""The view on loopback: every question, for root's processes alone, and no change."""

from __future__ import annotations

import json
import os
import socket
from http.client import HTTPConnection

import pytest

from agent.capture.flows import owner_of
from agent.options import parse_view
from mesh.errors import ConfigError
from mesh.model.address import SocketAddress, parse_ip
from tests.unit.agent.admin.fake import FakeNode, running_view


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, dict[str, object]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    finally:
        connection.close()
    assert isinstance(found, dict)
    return answer.status, found


def test_it_answers_and_changes_nothing() -> None:
    node = FakeNode()
    with running_view(node) as port:
        assert ask(port, "GET", "/v1/status")[1]["node"] == "n1"
        status, found = ask(port, "POST", "/v1/log", '{"level": "debug"}')
        assert (status, "read_only" in str(found)) == (403, True)
        question = '{"src": "shop/old", "dst": "shop/pay", "port": 8080}'
        assert ask(port, "POST", "/v1/authz", question)[1]["allowed"] is False
    assert node.state.log_level == "info"


@pytest.mark.parametrize("uid", [1000, None])
def test_others_are_turned_away(uid: int | None) -> None:
    with running_view(FakeNode(), lambda _there, _here: uid) as port:
        status, found = ask(port, "GET", "/v1/traffic")
    assert (status, "root's processes" in str(found)) == (403, True)


def test_the_kernel_knows_whose_a_socket_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = SocketAddress(parse_ip("127.0.0.1"), server.getsockname()[1])
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                there = SocketAddress(parse_ip("127.0.0.1"), client.getsockname()[1])
                assert owner_of(there, here) == os.geteuid()
                client.shutdown(socket.SHUT_WR)
                assert owner_of(there, here) == os.geteuid()
                client.close()
                assert owner_of(there, here) is None  # the kernel would say root
        assert owner_of(here, there) is None  # a listener is no connection


def test_it_is_for_loopback_only() -> None:
    with pytest.raises(ConfigError, match="only a loopback address"):
        parse_view("0.0.0.0:15019")
