"""Chains the plugin into the node's network configuration, keeps it there, and takes it out again.

The runtime uses the first file of the directory by name. Ours is the last entry of its `plugins`;
everything else in the file stays as it is. A file is replaced by a rename, so a reader sees the old
or the new one, never half of one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agent.cni.build import NAME
from mesh.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_S = 1.0
_SUFFIXES = (".conf", ".conflist", ".json")
_SAVED = ".meshnode-saved"
"""A single plugin's file, which a list takes the place of, is kept under this further suffix."""

JsonObject: TypeAlias = "dict[str, object]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """Our entry in the list.

    Attributes:
        socket: of the agent, as the runtime on the host sees it.
        timeout_s: how long a pod's start waits.
        excluded: namespaces whose pods start without the agent.
    """

    socket: Path
    timeout_s: int
    excluded: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {
            "type": NAME,
            "agentSocket": str(self.socket),
            "timeoutSeconds": self.timeout_s,
            "excludeNamespaces": ",".join(self.excluded),
        }


def install_binary(source: Path, bin_dir: Path) -> None:
    """Put the plugin where the runtime looks for it. Raises `ConfigError`."""
    try:
        bin_dir.mkdir(parents=True, exist_ok=True)
        _replace(bin_dir / NAME, source.read_bytes(), 0o755)
    except OSError as error:
        raise ConfigError(f"the CNI plugin cannot be put into {bin_dir}: {error}") from error


def chain(conf_dir: Path, entry: PluginEntry) -> Path | None:
    """Make sure that the configuration in use has our entry; None while there is none.

    Returns the file if it had to be changed. Raises `ConfigError` for one that cannot be read.
    """
    path = active_file(conf_dir)
    if path is None:
        return None
    tree = _read(path)
    plugins = _plugins(tree, path)
    wanted = [*(p for p in plugins if p.get("type") != NAME), entry.to_json()]
    if tree.get("plugins") == wanted:
        return None
    if "plugins" in tree:
        _write(path, {**tree, "plugins": wanted})
        return path
    return _into_list(path, tree, wanted)


def active_file(conf_dir: Path) -> Path | None:
    """The file that a runtime takes: the first by name."""
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(conf_dir)
            if entry.name.endswith(_SUFFIXES) and entry.is_file()
        )
    except OSError as error:
        raise ConfigError(f"{conf_dir} cannot be read: {error.strerror}") from error
    return conf_dir / names[0] if names else None


def unchain(conf_dir: Path) -> list[str]:
    """Take our entry out of every file; what was changed, in words."""
    changed: list[str] = []
    if not conf_dir.is_dir():
        return changed
    for path in sorted(conf_dir.iterdir()):
        if not path.name.endswith(_SUFFIXES) or not path.is_file():
            continue
        try:
            tree = _read(path)
            plugins = _plugins(tree, path)
        except ConfigError:
            continue  # somebody else's, and not of a form that we can have changed
        left = [plugin for plugin in plugins if plugin.get("type") != NAME]
        if len(left) == len(plugins):
            continue
        saved = path.with_name(f"{path.stem}.conf{_SAVED}")
        if saved.is_file():
            os.replace(saved, path.with_suffix(".conf"))
            path.unlink()
        else:
            _write(path, {**tree, "plugins": left})
        changed.append(f"CNI configuration {path}")
    return changed


def remove_plugin(conf_dir: Path, bin_dir: Path) -> list[str]:
    """Leave no trace in the node's network configuration; what was removed, in words.

    The configuration goes first: it must never name a program that is not there.
    """
    removed = unchain(conf_dir)
    binary = bin_dir / NAME
    if binary.is_file():
        binary.unlink()
        removed.append(f"CNI plugin {binary}")
    return removed


async def keep_chained(conf_dir: Path, entry: PluginEntry, *, look_s: float = LOOK_S) -> None:
    """Chain, and chain again after anybody wrote the configuration anew, until cancelled."""
    complaint = ""
    while True:
        try:
            changed = await asyncio.to_thread(chain, conf_dir, entry)
            if changed is not None:
                log.info("chained the CNI plugin into %s", changed)
            complaint = ""
        except (ConfigError, OSError) as error:
            if str(error) != complaint:
                complaint = str(error)
                log.error("the CNI plugin cannot be chained: %s", error)
        await asyncio.sleep(look_s)


def _read(path: Path) -> JsonObject:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no CNI configuration: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is no CNI configuration: not an object")
    return tree


def _plugins(tree: JsonObject, path: Path) -> list[Mapping[str, object]]:
    """The plugins of a list, or the one that a plain file is."""
    found = tree.get("plugins", [tree] if "type" in tree else None)
    if not isinstance(found, list) or not all(isinstance(plugin, dict) for plugin in found):
        raise ConfigError(f"{path} is no CNI configuration: it names no plugins")
    return found


def _into_list(path: Path, tree: JsonObject, plugins: list[Mapping[str, object]]) -> Path:
    """Put a list in the place of a plain file, which is kept for the way back."""
    head = {"cniVersion": tree.get("cniVersion", "1.0.0"), "name": tree.get("name", path.stem)}
    inner = [{k: v for k, v in p.items() if k not in ("cniVersion", "name")} for p in plugins]
    made = path.with_suffix(".conflist")
    _write(made, {**head, "plugins": inner}, mode_of=path)
    os.replace(path, path.with_name(f"{path.stem}.conf{_SAVED}"))
    return made


def _write(path: Path, tree: Mapping[str, object], mode_of: Path | None = None) -> None:
    mode = (mode_of or path).stat().st_mode & 0o777
    _replace(path, (json.dumps(tree, indent=2) + "\n").encode(), mode)


def _replace(path: Path, content: bytes, mode: int) -> None:
    # The name of the draft ends in nothing that a runtime reads.
    fd, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
