"""Help in one voice: every option says what it does, every command shows how it is typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from agent.cli.examples import EXAMPLES
from agent.cli.main import cli
from agent.cli.pages.reference import commands_below
from tests.unit.agent.cli.invoke import meshnode

EVERY = {" ".join(path[1:]): command for command, path in commands_below()}
LINES = [line for lines in EXAMPLES.values() for line in lines if line.startswith("meshnode ")]


def test_every_command_has_examples_and_no_other() -> None:
    leaves = {words for words, one in EVERY.items() if not isinstance(one, click.Group)}
    assert set(EXAMPLES) - {"waypoint"} == leaves


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_a_good_command_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifests").mkdir()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in "|>"), len(words))]
    if words[0] == "holder":  # a program of its own
        return
    context = click.Context(cli, info_name="meshnode", help_option_names=["-h", "--help"])
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.list_commands(context):
        found = command.get_command(context, words[0])
        assert found is not None
        command, words = found, words[1:]
    with command.make_context(command.name, words, parent=context):
        pass


@pytest.mark.parametrize("words", EVERY)
def test_every_option_says_what_it_does(words: str) -> None:
    command = EVERY[words]
    assert command.help, words
    assert command.help.split("\n\n")[0].rstrip().endswith((".", ":")), command.help
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        text = option.help or ""
        assert text, f"{words} {option.opts}"
        # A whole sentence or two, such as are in a table.
        assert text[0].isupper() or text[0] in "`z", f"{words} {option.opts}: {text}"
        assert text.rstrip("]").endswith((".", "`")), f"{words} {option.opts}: {text}"
        words_of_click = ("TEXT", "INTEGER", "FLOAT", "INTEGER RANGE", "PATH", "DIRECTORY")
        assert option.make_metavar(click.Context(command)) not in words_of_click or option.metavar


def test_examples_stand_below_the_help() -> None:
    text = meshnode("tap", "--help").stdout
    assert text.rstrip().endswith("meshnode tap --requests -o json -c 10")
    assert "Examples:\n" in text


@pytest.mark.parametrize("width", [40, 80])
def test_help_fits_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for line in meshnode("status", "--help").stdout.splitlines():
        assert len(line) <= max(width, 80)
