"""An agent's spans of connections, at a real collector."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.lab import Lab, eventually
from tests.netns.test_lab import ask, serve

OUTSIDE = Path(__file__).parents[1] / "waypoint" / "outside.py"
PORT = 4318
pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_connection_becomes_a_span_on_both_sides(lab: Lab) -> None:
    a, b = lab.node("a"), lab.node("b")
    lab.namespace("shop", enrolled=True)
    client = a.pod("client", namespace="shop")
    server = b.pod("server", namespace="shop")
    serve(server)
    keys = lab.directory / "keys"
    keys.write_bytes(b"{}")
    collector = a.start([sys.executable, str(OUTSIDE), str(PORT), str(keys)])
    collector.wait_listening(PORT)
    url = f"http://{a.addresses.underlay4}:{PORT}"
    for node in (a, b):
        node.agent("--otlp-endpoint", url, "--trace-sampling", "100")
    assert ask(client, server.address4, "hello") == "HELLO"

    def spans() -> list[dict[str, str]]:
        lines = [line for line in collector.output.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    eventually(lambda: len(spans()) >= 2, 30.0, "a span of either side")
    assert {span["name"] for span in spans()} == {"TCP"}
