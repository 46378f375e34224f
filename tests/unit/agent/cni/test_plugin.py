"""The plugin program by itself: real C, real socket, no pod."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.cni.build import build
from agent.cni.request import CniError, Code, Request
from agent.cni.server import serve_cni
from tests.netns.cni.runtime import Called, run_plugin

RESULT = '{ "cniVersion": "1.0.0", "ips": [ {"address":"10.0.0.2/24"} ],\n "x": "}]\\"{" }'
ARGS = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u"


@pytest.fixture(scope="module")
def plugin() -> Iterator[Path]:
    with TemporaryDirectory() as directory:
        target = Path(directory) / "meshnode-cni"
        build(target)
        yield target


def config(socket: Path, **more: object) -> str:
    head = json.dumps({"cniVersion": "1.0.0", "agentSocket": str(socket), **more})
    return f'{head[:-1]}, "prevResult": {RESULT}}}'


def environment(command: str, args: str = ARGS) -> Mapping[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
    }


class Agent:
    """Answers as it is told."""

    def __init__(self, error: CniError | None = None) -> None:
        self.heard: list[Request] = []
        self._error = error

    async def decide(self, request: Request) -> None:
        self.heard.append(request)
        if self._error is not None:
            raise self._error


@asynccontextmanager
async def serving(agent: Agent, directory: Path) -> AsyncIterator[Path]:
    path = directory / "run" / "cni.sock"
    path.parent.mkdir()
    async with serve_cni(path, agent.decide):
        yield path
    assert not await asyncio.to_thread(os.path.exists, path)


def ask(plugin: Path, agent: Agent, directory: Path, command: str = "ADD") -> Called:
    async def run() -> Called:
        async with serving(agent, directory) as path:
            assert os.stat(path).st_mode & 0o777 == 0o600
            call = (plugin, config(path), environment(command))
            return await asyncio.to_thread(run_plugin, *call)

    return asyncio.run(run())


def test_a_captured_pod_gets_the_result_unchanged(plugin: Path, tmp_path: Path) -> None:
    agent = Agent()
    called = ask(plugin, agent, tmp_path)
    assert (called.code, called.text) == (0, RESULT + "\n")
    [request] = agent.heard
    assert request.sandbox is not None
    assert request.sandbox.name == "web"
    assert [str(one) for one in request.sandbox.addresses] == ["10.0.0.2"]


def test_the_agents_reason_is_the_runtimes_error(plugin: Path, tmp_path: Path) -> None:
    agent = Agent(CniError(Code.TRY_LATER, 'the canary said "no"\nand more'))
    called = ask(plugin, agent, tmp_path)
    assert called.code == 1
    assert called.answer == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": 'meshnode: the canary said "no" and more',
    }


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_pod_can_always_go(plugin: Path, tmp_path: Path, command: str) -> None:
    text = config(tmp_path / "nobody.sock")
    called = run_plugin(plugin, text, environment(command))
    assert (called.code, called.text) == (0, "")
    agent = Agent(CniError(Code.TRY_LATER, "no"))
    assert ask(plugin, agent, tmp_path, command).code == 0


def test_without_an_agent_nothing_starts_but_what_is_excluded(plugin: Path, tmp_path: Path) -> None:
    text = config(tmp_path / "nobody.sock", timeoutSeconds=1, excludeNamespaces="kube-system,sh")
    called = run_plugin(plugin, text, environment("ADD"))
    assert called.code == 1
    assert called.answer["code"] == 11
    assert "no agent answers at" in called.message
    for command, code in (("CHECK", 11), ("STATUS", 50)):
        assert run_plugin(plugin, text, environment(command)).answer["code"] == code
    for namespace, starts in (("kube-system", True), ("sh", True), ("s", False), ("", False)):
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=x"
        assert (run_plugin(plugin, text, environment("ADD", args)).code == 0) is starts


def test_an_agent_that_says_nothing_is_not_waited_for_for_ever(
    plugin: Path, tmp_path: Path
) -> None:
    class Silent(Agent):
        async def decide(self, request: Request) -> None:
            await asyncio.Event().wait()

    async def run() -> Called:
        async with serving(Silent(), tmp_path) as path:
            call = (plugin, config(path, timeoutSeconds=1), environment("ADD"))
            return await asyncio.to_thread(run_plugin, *call)

    called = asyncio.run(run())
    assert called.code == 1
    assert "did not answer within 1 s" in called.message


def test_versions_are_told_without_a_configuration(plugin: Path) -> None:
    called = run_plugin(plugin, "{}", {"CNI_COMMAND": "VERSION"})
    assert called.code == 0
    versions = called.answer["supportedVersions"]
    assert isinstance(versions, list)
    assert "1.0.0" in versions


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 6),
        ("[]", 6),
        ('{"a"', 6),
        ('{"a": [1', 6),
        ('{"a": "x', 6),
        ("{}", 7),
        ('{"prevResult": {}}', 7),
        ('{"prevResult": {}, "agentSocket": "relative"}', 7),
        ('{"prevResult": {}, "agentSocket": 3}', 7),
        ('{"prevResult": {}, "agentSocket": "/x/y", "timeoutSeconds": 0}', 7),
    ],
)
def test_a_broken_configuration_is_named(plugin: Path, text: str, code: int) -> None:
    called = run_plugin(plugin, text, environment("ADD"))
    assert (called.code, called.answer["code"]) == (1, code)


def test_an_unknown_command_is_refused(plugin: Path) -> None:
    assert run_plugin(plugin, "{}", {"CNI_COMMAND": "DANCE"}).answer["code"] == 4
