"""The root command: usage, version, lazy imports, exit codes, references."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.admin.client import AgentForbidden, AgentNotRunning, AgentRefused
from agent.cli.main import COMMANDS, cli
from agent.cli.output.exits import Exit, NotRunning, SchemaMismatch, expected_error, failure_of
from agent.cli.pages.reference import cli_reference, metrics_reference
from mesh.errors import ConfigError, IdentityError, KernelError, MeshnodeError, UpstreamError
from tests.unit.agent.cli.invoke import error_of, meshnode

DOCS = Path(__file__).parents[4] / "docs"
NODE = "no-such-node-of-a-test"


def test_help_names_every_command() -> None:
    result = meshnode("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = meshnode(name, "--help") if name != "holder" else meshnode("agent", "-h")
    assert result.exit_code == 0
    assert "Usage: meshnode" in result.stdout


def test_the_version() -> None:
    assert meshnode("--version").stdout.startswith("meshnode ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("--bogus",),
        ("status", "--bogus"),
        ("status", "-o", "xml"),
        ("authz", "check", "a", "b", "0"),
        ("token", "create", "n2"),
        ("log", "--level", "loud"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_1(arguments: tuple[str, ...]) -> None:
    result = meshnode(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("meshnode: ")
    assert result.stderr.count("\n") == 1
    assert "--help`" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "meant"), [("statsu", "status"), ("authz chek", "check"), ("log --levl", "level")]
)
def test_a_slip_is_answered_with_what_may_be_meant(arguments: str, meant: str) -> None:
    said = meshnode(*arguments.split()).stderr
    assert "did you mean" in said.lower()
    assert meant in said


def test_an_answer_that_finds_no_room_is_an_error_in_words() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m agent.cli install > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "no space is left" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_says_nothing(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        cluster = {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        kubeconfig.write_text(json.dumps(content))
        argv = ["analyze", "--source", f"kubernetes:{kubeconfig}"]
        with subprocess.Popen(
            [sys.executable, "-m", "agent.cli", *argv], stderr=subprocess.PIPE
        ) as command:
            asked, _ = silent.accept()
            with asked:
                command.send_signal(signal.SIGINT)
                _, told = command.communicate(timeout=30)
    assert command.returncode == Exit.INTERRUPTED
    assert told == b""


def test_colours_are_off_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = CliRunner().invoke(cli, ["check", "-o", "table"], prog_name="meshnode", color=True)
    assert "\x1b[" not in coloured.stdout


def test_wrong_usage_for_programs() -> None:
    result = meshnode("status", "-o", "json", "--bogus")
    assert (result.exit_code, error_of(result)["code"]) == (1, "usage")


def test_a_bad_node_name() -> None:
    result = meshnode("status", "--node", "Bad/Name")
    assert result.exit_code == 1
    assert "'Bad/Name' is not a node name" in result.stderr


@pytest.mark.parametrize(
    "verb",
    ["maps", "progs", "links", "enrolled", "origdst", "identity", "policy", "service", "stats",
     "flows", "drops", "fsck"],
)  # fmt: skip
def test_without_pins(verb: str) -> None:
    result = meshnode("bpf", verb, "--node", NODE, "-o", "json")
    if os.geteuid() == 0:
        assert (result.exit_code, error_of(result)["code"]) == (2, "not_running")
        assert f"nothing is pinned for node {NODE}" in result.stderr
    else:
        assert result.exit_code in (Exit.NOT_RUNNING, Exit.PERMISSION)


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (AgentNotRunning("x"), Exit.NOT_RUNNING, "not_running"),
        (NotRunning("x"), Exit.NOT_RUNNING, "not_running"),
        (KernelError("map x", errno.ENOENT), Exit.NOT_RUNNING, "not_running"),
        (AgentForbidden("x"), Exit.PERMISSION, "permission"),
        (KernelError("map x", errno.EPERM), Exit.PERMISSION, "permission"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/run/x"),
            Exit.PERMISSION,
            "permission",
        ),
        (SchemaMismatch("x"), Exit.SCHEMA, "schema"),
        (KernelError("map x", errno.EINVAL), Exit.NEGATIVE, "kernel"),
        (AgentRefused("bad_request", "x"), Exit.NEGATIVE, "bad_request"),
        (ConfigError("x"), Exit.NEGATIVE, "bad_input"),
        (IdentityError("x"), Exit.NEGATIVE, "identity"),
        (UpstreamError("x"), Exit.NEGATIVE, "failed"),
    ],
)
def test_exit_codes(error: MeshnodeError | PermissionError, exit_code: Exit, code: str) -> None:
    failure = failure_of(error)
    assert (failure.exit, failure.code) == (exit_code, code)


def test_errors_of_tasks_that_ended_together() -> None:
    first = ConfigError("first")
    nested = ExceptionGroup("tasks", [ExceptionGroup("tasks", [first]), ConfigError("second")])
    assert expected_error(nested) is first
    assert expected_error(ExceptionGroup("tasks", [first, RuntimeError("defect")])) is None


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'aiohttp', 'cryptography', 'yaml', 'rich', 'msgspec', 'http.client', 'ssl'}"
    program = (
        "import sys; from agent.cli.main import cli\n"
        "try: cli(['--help'])\n"
        f"except SystemExit: print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == "[]\n"


def test_docs_are_what_the_code_says() -> None:
    hint = "run `python -m agent.cli.pages.reference docs`"
    assert (DOCS / "cli.md").read_text() == cli_reference(), hint
    assert (DOCS / "metrics.md").read_text() == metrics_reference(), hint
