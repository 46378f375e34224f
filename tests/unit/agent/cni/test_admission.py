"""What the agent answers to the plugin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence

import pytest

from agent.cni.admission import Admission, Finding, Standing
from agent.cni.request import CniError, Code, Command, Request, Sandbox, parse_request

ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u-1"
CONFIG = json.dumps(
    {"prevResult": {"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]}}
)


def wire(command: str, config: str = CONFIG, *, netns: str = "/n", args: str = ARGS) -> bytes:
    return "\0".join((command, "c-1", netns, "eth0", args, config)).encode()


def test_an_add_says_which_pod_and_with_which_addresses() -> None:
    request = parse_request(wire("ADD"))
    assert request.command is Command.ADD
    assert request.sandbox is not None
    assert (request.sandbox.namespace, request.sandbox.name) == ("shop", "web")
    assert (request.sandbox.uid, request.sandbox.netns) == ("u-1", "/n")
    assert [str(address) for address in request.sandbox.addresses] == ["10.0.0.2", "fd00::2"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"ADD", Code.DECODE),
        (wire("GO"), Code.INVALID_ENVIRONMENT),
        (wire("ADD", netns=""), Code.INVALID_ENVIRONMENT),
        (wire("ADD", "{"), Code.INVALID_CONFIG),
        (wire("ADD", '{"prevResult": {"ips": [{"address": "no"}]}}'), Code.INVALID_CONFIG),
        (wire("ADD", '{"prevResult": {"ips": [3]}}'), Code.INVALID_CONFIG),
        (b"ADD\0\xff\0\0\0\0{}", Code.INVALID_ENVIRONMENT),
    ],
)
def test_nonsense_is_refused(data: bytes, code: Code) -> None:
    with pytest.raises(CniError) as caught:
        parse_request(data)
    assert caught.value.code is code


def test_a_container_of_no_pod_and_a_status_name_no_sandbox() -> None:
    assert parse_request(wire("ADD", args="")).sandbox is None
    assert parse_request(wire("STATUS")).sandbox is None


class Notes:
    def __init__(self) -> None:
        self.told: list[str] = []

    def announce(self, sandbox: Sandbox) -> None:
        self.told.append(f"announce {sandbox.name}")

    def forget(self, sandbox: Sandbox) -> None:
        self.told.append(f"forget {sandbox.name}")


def ask(command: str, findings: Sequence[Finding], *, deadline_s: float = 60.0) -> list[str]:
    notes = Notes()
    left: Iterator[Finding] = iter(findings)
    last = findings[-1]

    def look(_sandbox: Sandbox) -> Finding:
        return next(left, last)

    request: Request = parse_request(wire(command))
    asyncio.run(Admission(notes, look, deadline_s=deadline_s).decide(request))
    return notes.told


PENDING = Finding(Standing.PENDING, "the canary did not answer")


def test_a_pod_waits_until_it_is_captured() -> None:
    found = [Finding(Standing.UNKNOWN), PENDING, Finding(Standing.ACTIVE)]
    assert ask("ADD", found) == ["announce web"]


def test_a_pod_of_no_mesh_starts_at_once() -> None:
    assert ask("ADD", [Finding(Standing.OUTSIDE)]) == ["announce web"]


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (PENDING, "is not captured: the canary did not answer"),
        (Finding(Standing.UNKNOWN), "has not heard of it"),
    ],
)
def test_a_pod_that_is_not_captured_in_time_does_not_start(finding: Finding, words: str) -> None:
    with pytest.raises(CniError, match=words) as caught:
        ask("ADD", [finding], deadline_s=0.0)
    assert caught.value.code is Code.TRY_LATER
    assert "shop/web" in str(caught.value)


def test_a_check_does_not_wait() -> None:
    assert ask("CHECK", [Finding(Standing.ACTIVE)]) == []
    with pytest.raises(CniError, match="not captured"):
        ask("CHECK", [PENDING])


def test_a_pod_that_goes_is_forgotten() -> None:
    assert ask("DEL", [PENDING]) == ["forget web"]
    assert ask("STATUS", [PENDING]) == []
