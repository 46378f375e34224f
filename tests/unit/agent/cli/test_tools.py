"""config diff, bug-report, completion, manual pages, watching."""

from __future__ import annotations

import json
import stat
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from agent.cli.bug_report import REDACTED, BugReport, redact
from agent.cli.config import ConfigDiff, Difference, compare
from agent.cli.output.shared import Output
from agent.cli.output.watch import answers
from agent.cli.pages.manpages import write_pages
from agent.cli.pages.reference import commands_below
from mesh.errors import MeshnodeError
from tests.unit.agent.admin.fake import FakeNode, running_admin
from tests.unit.agent.cli.invoke import meshnode
from tests.unit.agent.cli.shop import shop_directory


def test_a_node_against_the_objects(tmp_path: Path) -> None:
    source = shop_directory(tmp_path / "objects")
    with running_admin(FakeNode(), tmp_path / "s"):
        arguments = ("config", "diff", "--source", source)
        result = meshnode(*arguments, socket=tmp_path / "s")
        assert result.exit_code == 5
        line = next(line for line in result.stdout.splitlines() if "shop/only-cart" in line)
        assert line.split() == ["policies", "shop/only-cart", "extra", "-"]
        text = meshnode(*arguments, "-o", "json", socket=tmp_path / "s").stdout
        found = msgspec.json.decode(text, type=ConfigDiff)
        assert (found.first, found.second) == (source, "node/n1")
        assert {one.difference for one in found.entries} >= {Difference.EXTRA}


def test_the_fields_that_differ_are_named() -> None:
    one = {"policies": [{"key": "a/b", "action": "DENY", "rules": []}], "settings": {"x": 1}}
    other = {"policies": [{"key": "a/b", "action": "ALLOW", "rules": []}], "settings": {"x": 1}}
    assert compare(one, one) == []
    (found,) = compare(one, other)
    assert (found.kind, found.key, found.fields) == ("policies", "a/b", ("action",))


def test_one_side_alone_is_no_comparison(tmp_path: Path) -> None:
    with running_admin(FakeNode(), tmp_path / "s"):
        result = meshnode("config", "diff", socket=tmp_path / "s")
    assert (result.exit_code, "name two nodes" in result.stderr) == (1, True)


TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ0ZXN0In0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize("secret", [TOKEN, PEM, f"Bearer {TOKEN}", "Basic dXNlcjpwYXNzd29yZA=="])
def test_secrets_are_replaced_wherever_they_stand(secret: str) -> None:
    value = {"a": [{"note": f"x {secret} y"}], "client_secret": "plain", "count": 3}
    text = redact(json.dumps(value).encode()).decode()
    assert "MHcCAQEE" not in text
    assert "eyJhbGci" not in text
    assert "dXNlcjp" not in text
    assert "plain" not in text
    assert json.loads(text)["count"] == 3
    assert REDACTED in redact(f"no json {secret}".encode()).decode()


@pytest.mark.slow
def test_a_report_is_for_its_owner_and_complete(tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    result = meshnode("bug-report", "-f", str(file), "-o", "json")
    found = msgspec.json.decode(result.stdout, type=BugReport)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        assert names == set(found.files) >= {"machine.json", "mesh/edges.json"}
        machine = tar.extractfile("report/machine.json")
        assert machine is not None
        assert json.loads(machine.read())["kernel"]
    again = meshnode("bug-report", "-f", str(file))
    assert (again.exit_code, "use -f FILE" in again.stderr) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    text = meshnode("completion", shell).stdout
    assert "_MESHNODE_COMPLETE" in text
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=text.encode(), check=True)


def test_every_command_has_a_manual_page(tmp_path: Path) -> None:
    count = write_pages(tmp_path)
    assert count == len(list(tmp_path.iterdir())) == len(list(commands_below())) + 1
    page = (tmp_path / "meshnode-authz-check.8").read_text()
    assert page.startswith('.TH "MESHNODE-AUTHZ-CHECK" "8"')
    assert "\\-\\-header K:V" in page
    assert ".SH EXIT STATUS" in page


def test_watching_repeats_through_a_failure_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    turns = iter(range(9))

    def find() -> int:
        turn = next(turns)
        if turn == 1:
            raise MeshnodeError("the agent is away")
        return turn

    def watch(output: Output) -> None:
        answers(output, find, lambda one: f"turn {one}", watch=True, interval_s=0.01, turns=3)

    watch(Output.TABLE)
    heard = capsys.readouterr()
    assert heard.out.splitlines() == ["turn 0", "turn 2"]
    assert "the agent is away" in heard.err
    watch(Output.JSON)
    assert capsys.readouterr().out.splitlines() == ["3", "4", "5"]


@pytest.mark.parametrize("command", [path for _, path in commands_below()], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = meshnode(*command[1:], "--help")
    assert result.exit_code == 0
    assert result.stdout.lower().startswith("usage: meshnode")
