"""What each process leaves unloaded: several of them run on every node."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENT = "kubernetes_asyncio"
"""A model of every object there is: 37 MB. Only kubeconfig files need it."""

UNUSED = {
    "agent.ztunnel.__main__": {"aiohttp", "cryptography", "prometheus_client", "yaml"},
    "agent.node.main, agent.kubernetes.objects, agent.kubernetes.observed": {"bcc", "click"},
    "agent.cli.main": {"aiohttp", "asyncio", "cryptography", "msgspec", "yaml"},
    "agent.cli.status": {"aiohttp", "cryptography", "prometheus_client", "yaml"},
    "controller.kubernetes.run": {"bcc", "click"},
    "waypoint.__main__": {"bcc", "click", "yaml"},
}
EVERYWHERE = {CLIENT, "opentelemetry", "grpc"}


@pytest.mark.parametrize("modules", UNUSED)
def test_a_process_loads_no_library_that_it_does_not_use(modules: str) -> None:
    code = f"import {modules}, sys\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not (UNUSED[modules] | EVERYWHERE) & set(loaded.stdout.split())
