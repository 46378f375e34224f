"""The node's network configuration with our plugin in it, and without it again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.cni.build import NAME
from agent.cni.config import (
    PluginEntry,
    active_file,
    chain,
    install_binary,
    keep_chained,
    remove_plugin,
)
from mesh.errors import ConfigError
from tests.lab.system import eventually

ENTRY = PluginEntry(
    socket=Path("/run/meshnode/one/cni.sock"), timeout_s=30, excluded=("kube-system", "x")
)
LIST = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}],
    "disableCheck": True,
}


def write(path: Path, tree: object, mode: int = 0o600) -> Path:
    path.write_text(json.dumps(tree))
    path.chmod(mode)
    return path


def types(path: Path) -> list[str]:
    return [plugin["type"] for plugin in json.loads(path.read_text())["plugins"]]


def test_ours_is_the_last_of_the_first_file(tmp_path: Path) -> None:
    first = write(tmp_path / "05-pods.conflist", LIST, 0o644)
    other = write(tmp_path / "10-other.conflist", LIST)
    assert chain(tmp_path, ENTRY) == first
    tree = json.loads(first.read_text())
    assert types(first) == ["bridge", "portmap", NAME]
    assert {**tree, "plugins": LIST["plugins"]} == LIST
    assert tree["plugins"][-1]["agentSocket"] == "/run/meshnode/one/cni.sock"
    assert tree["plugins"][-1]["excludeNamespaces"] == "kube-system,x"
    assert first.stat().st_mode & 0o777 == 0o644
    assert json.loads(other.read_text()) == LIST
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_chaining_twice_changes_nothing_and_new_settings_replace_old(tmp_path: Path) -> None:
    path = write(tmp_path / "05-pods.conflist", LIST)
    chain(tmp_path, ENTRY)
    before = path.stat().st_ino
    assert chain(tmp_path, ENTRY) is None
    assert path.stat().st_ino == before
    later = PluginEntry(socket=ENTRY.socket, timeout_s=5, excluded=())
    assert chain(tmp_path, later) == path
    assert types(path) == ["bridge", "portmap", NAME]
    assert json.loads(path.read_text())["plugins"][-1]["timeoutSeconds"] == 5


def test_a_single_plugin_becomes_a_list_and_comes_back(tmp_path: Path) -> None:
    plain = {"cniVersion": "0.3.1", "name": "n", "type": "bridge", "bridge": "cni0"}
    path = write(tmp_path / "10-n.conf", plain)
    made = chain(tmp_path, ENTRY)
    assert made == tmp_path / "10-n.conflist"
    assert active_file(tmp_path) == made
    tree = json.loads(made.read_text())
    assert tree["plugins"][0] == {"type": "bridge", "bridge": "cni0"}
    assert (tree["cniVersion"], tree["name"]) == ("0.3.1", "n")
    remove_plugin(tmp_path, tmp_path / "bin")
    assert json.loads(path.read_text()) == plain
    assert [p.name for p in tmp_path.iterdir()] == ["10-n.conf"]


def test_removal_leaves_everything_as_it_was(tmp_path: Path) -> None:
    conf, bin_dir = tmp_path / "net.d", tmp_path / "bin"
    conf.mkdir()
    path = write(conf / "05-pods.conflist", LIST)
    source = tmp_path / "built"
    source.write_bytes(b"\x7fELF")
    install_binary(source, bin_dir)
    assert (bin_dir / NAME).stat().st_mode & 0o777 == 0o755
    chain(conf, ENTRY)
    removed = remove_plugin(conf, bin_dir)
    assert removed == [f"CNI configuration {path}", f"CNI plugin {bin_dir / NAME}"]
    assert json.loads(path.read_text()) == LIST
    assert list(bin_dir.iterdir()) == []
    assert remove_plugin(conf, bin_dir) == []


def test_an_empty_directory_waits_and_a_broken_file_is_named(tmp_path: Path) -> None:
    assert chain(tmp_path, ENTRY) is None
    path = tmp_path / "01-broken.conflist"
    for text in ("{", "[]", '{"plugins": 3}', '{"plugins": [3]}', "{}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"01-broken\.conflist is no CNI configuration"):
            chain(tmp_path, ENTRY)
        assert path.read_text() == text
    assert remove_plugin(tmp_path, tmp_path) == []


def test_somebody_who_writes_it_anew_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "05-pods.conflist", LIST)

    async def until(names: list[str], file: Path) -> None:
        await asyncio.to_thread(eventually, lambda: types(file) == names, 20, f"{names}")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(keep_chained(tmp_path, ENTRY, look_s=0.01))
            await until(["bridge", "portmap", NAME], path)
            write(path, {**LIST, "plugins": [{"type": "ptp"}]})
            await until(["ptp", NAME], path)
            # A file that comes before ours is the one in use now.
            earlier = write(tmp_path / "00-new.conflist", LIST)
            await until(["bridge", "portmap", NAME], earlier)
            keeping.cancel()

    asyncio.run(run())
