"""`meshnode bug-report`: what a helper needs to see, in one file, without secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from agent.cli.main import meshnode_version
from agent.cli.output.progress import progress
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.reach.observers import Observer, local_observers, observers
from agent.cli.reach.reach_options import chosen_cluster, reach_arguments, reach_options
from agent.paths import known_nodes
from mesh.errors import ConfigError

SCHEMA_VERSION = 1
STEP_TIMEOUT_S = 40.0
_ANSWERED: Mapping[str, Sequence[str]] = {
    "status": ("status",),
    "config": ("config", "dump"),
    "certs": ("certs",),
    "connections": ("connections",),
    "bpf-diff": ("bpf", "diff"),
    "bpf-maps": ("bpf", "maps"),
    "bpf-progs": ("bpf", "progs"),
    "bpf-links": ("bpf", "links"),
    "bpf-enrolled": ("bpf", "enrolled"),
    "bpf-drops": ("bpf", "drops", "-a"),
    "bpf-fsck": ("bpf", "fsck"),
}
"""Of every node, wherever it is."""
_LOOKED_UP: Mapping[str, Sequence[str]] = {"check": ("check",)}
"""Of nodes on this machine."""
_MESH: Mapping[str, Sequence[str]] = {
    "edges": ("edges", "--since", "15m"),
    "stat": ("stat", "service", "--since", "15m"),
}
_SECRET_NAME = re.compile(r"token|secret|passw|jwks$|private|credential|authorization|cookie", re.I)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|eyJ[\w-]{10,}\.[\w-]+\.[\w-]*"
    r"|(?i:bearer|basic) [\w.~+/=-]{8,}",
    re.S,
)
REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BugReport:
    """`meshnode bug-report -o json`. `failed`: commands whose answer is an error, by file."""

    schema_version: int = SCHEMA_VERSION
    file: str
    files: tuple[str, ...]
    failed: tuple[str, ...]


@click.command(name="bug-report")
@click.option("-f", "--file", metavar="FILE", help="Default: meshnode-report-TIME.tar.gz here.")
@reach_options
@output_option()
@click.pass_context
def bug_report(context: click.Context, file: str | None, node: str | None, output: Output) -> None:
    """Pack what helps to find a fault: state, configuration, kernel tables, the last minutes.

    Of every node and waypoint on this machine or in a cluster, or of --node alone. Keys are never
    read; tokens, key sets and credentials in configuration are replaced. Names and addresses of
    your workloads are in it: look through it before you give it away. The file is for its owner
    alone (mode 0600).
    """
    name = file or time.strftime("meshnode-report-%Y%m%d-%H%M%S.tar.gz")
    if Path(name).exists():
        raise ConfigError(f"{name} is there already; use -f FILE")
    if not os.access(Path(name).absolute().parent, os.W_OK):
        raise ConfigError(f"{Path(name).absolute().parent} cannot be written to; use -f FILE")
    entries: dict[str, bytes] = {"machine.json": _machine()}
    failed: list[str] = []
    with progress("asking everything"), ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = _commands(context, node)
        answers = zip(commands, pool.map(_answer_of, commands.values()), strict=True)
        for path, (entries[path], has_failed) in answers:
            failed += [path] if has_failed else []
    _pack(Path(name), entries)
    found = BugReport(file=name, files=tuple(sorted(entries)), failed=tuple(failed))
    answer(output, found, lambda: _told(found))


def _told(found: BugReport) -> str:
    lines = [f"{found.file}: {len(found.files)} files"]
    if found.failed:
        lines.append(f"without an answer: {', '.join(found.failed)} (the reason is inside)")
    return "\n".join(lines)


def _commands(context: click.Context, node: str | None) -> dict[str, list[str]]:
    """File and command."""
    found = {f"mesh/{name}.json": [*words] for name, words in _MESH.items()}
    choice = chosen_cluster(context)
    if choice is None:
        for name in [node] if node else known_nodes():
            found |= _of_node(name, {**_ANSWERED, **_LOOKED_UP})
        return found | _of_waypoints(() if node else local_observers(None, None))
    asked = observers(node)
    for agent in (one for one in asked if one.is_node):
        found |= _of_node(agent.origin.removeprefix("node/"), _ANSWERED)
    found |= _of_waypoints(asked)
    to = reach_arguments(choice)
    found = {path: [*words, *to] for path, words in found.items()}
    check = ["check", "--cluster", "--kubeconfig", str(choice.kubeconfig)]
    return {**found, "mesh/check.json": [*check, "--namespace", choice.namespace]}


def _of_node(node: str, commands: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {
        f"nodes/{node}/{name}.json": [*words, "--node", node] for name, words in commands.items()
    }


def _of_waypoints(asked: Iterable[Observer]) -> dict[str, list[str]]:
    names = [one.origin.removeprefix("waypoint/") for one in asked if not one.is_node]
    return {f"waypoints/{name}/config.json": ["config", "dump", name] for name in names}


def _answer_of(arguments: Sequence[str]) -> tuple[bytes, bool]:
    """What a command says, redacted; whether it had no answer."""
    asked = [*arguments] if arguments[:2] == ["config", "dump"] else [*arguments, "-o", "json"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", *asked],
            capture_output=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return b'{"error": {"code": "timeout"}}\n', True
    text = done.stdout or json.dumps({"error": {"message": done.stderr.decode()}}).encode()
    return redact(text), b'"error": {' in text[:200] or not done.stdout


def redact(text: bytes) -> bytes:
    """Replace what is secret by its name or its looks."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return _SECRET_TEXT.sub(REDACTED, text.decode(errors="replace")).encode()
    return json.dumps(_redacted(value), indent=1).encode() + b"\n"


def _redacted(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            name: REDACTED if _is_secret(str(name), item) else _redacted(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return _SECRET_TEXT.sub(REDACTED, value) if isinstance(value, str) else value


def _is_secret(name: str, value: object) -> bool:
    """Numbers and empty values tell nothing, and policies are only called after authorization."""
    return bool(value) and isinstance(value, str) and bool(_SECRET_NAME.search(name))


def _machine() -> bytes:
    facts = {
        "schema_version": SCHEMA_VERSION,
        "meshnode": meshnode_version(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "at": time.time(),
        "nodes": known_nodes(),
    }
    return json.dumps(facts, indent=1).encode() + b"\n"


def _pack(path: Path, entries: Mapping[str, bytes]) -> None:
    folder = path.name.removesuffix(".tar.gz")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; use -f FILE") from error
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in sorted(entries.items()):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mode, info.mtime = len(content), 0o600, int(time.time())
            tar.addfile(info, io.BytesIO(content))
