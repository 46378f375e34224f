"""The CA's keys in a Secret, and a working copy of it in a state directory.

The Secret is the truth: every replica signs from it, so that none has to lead for a certificate
to be renewed. The directory (on a memory-backed volume) is what the authority reads. Only the
leader writes to the Secret, and only a step of a rotation that was due; `rotate` is the other way
in. Whoever loses a race reads again: keys are never overwritten with what was read before.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from pathlib import Path

from controller.kubernetes.client import KubeClient, Manifest, metadata_of, object_path
from controller.waypoints.manifests import MANAGED_BY, MANAGER
from mesh.errors import ConfigError
from mesh.identity.bootstrap import init_ca
from mesh.identity.profiles import RandomBytes
from mesh.identity.roots import CaState
from mesh.identity.state_dir import StateDir
from mesh.identity.state_files import locked, make_private_dir, replace_private
from mesh.sources.kubernetes.errors import KubeError

log = logging.getLogger(__name__)

SECRET = "meshnode-ca"
_FILES = ("ca.json", "server.json", "tokens.json")
_TRIES = 5


class CaSecret:
    """One Secret and its working copy. Errors are `KubeError` and `ConfigError`."""

    def __init__(self, client: KubeClient, namespace: str, directory: Path) -> None:
        self._client = client
        self._namespace = namespace
        self._path = object_path("v1", "secrets", namespace, SECRET)
        self._directory = directory
        self._version = ""

    async def open(
        self, *, trust_domain: str, now: Callable[[], float], random_bytes: RandomBytes
    ) -> None:
        """Fetch the keys; make them where there are none yet, which one replica does."""
        found = await self._client.get(self._path)
        if found is None:
            # Made in a place of its own: what another replica made first must not be mixed in.
            made = self._directory.with_name(f"{self._directory.name}.new")
            init_ca(made, trust_domain=trust_domain, now=now(), random_bytes=random_bytes)
            try:
                found = await self._client.create(self._manifest(_read_files(made)))
                log.info("made a CA for %s and kept it in Secret %s", trust_domain, SECRET)
            except KubeError as error:
                if not error.is_conflict:
                    raise
                found = await self._client.get(self._path)
            finally:
                _remove(made)
        if found is None:
            raise KubeError(f"Secret {self._namespace}/{SECRET} was there and is gone")
        make_private_dir(self._directory)
        self._take(found)

    async def follow(self) -> None:
        """Take over what changed in the Secret. A Secret that is gone leaves the copy as it is."""
        found = await self._client.get(self._path)
        if found is None:
            log.error("Secret %s is gone: the CA goes on with its copy; restore it", SECRET)
        elif metadata_of(found).get("resourceVersion") != self._version:
            self._take(found)

    async def save(self) -> None:
        """Write steps of a rotation that the copy took by itself. For the leader."""
        files = _read_files(self._directory)
        found = await self._client.get(self._path)
        if found is None or metadata_of(found).get("resourceVersion") != self._version:
            return  # `follow` comes first.
        if files["ca.json"] != _decoded(found).get("ca.json"):
            await self._replace(found, files)
            log.info("the CA's state changed: kept in Secret %s", SECRET)

    async def update(self, change: Callable[[CaState], CaState]) -> CaState:
        """Change the CA's state in the Secret, as a person asks; the copy follows."""
        for _ in range(_TRIES):
            found = await self._client.get(self._path)
            if found is None:
                raise ConfigError(
                    f"there is no Secret {self._namespace}/{SECRET}: the controller makes it "
                    "when it starts"
                )
            make_private_dir(self._directory)
            self._take(found)
            state = StateDir(self._directory).update_ca(change)
            try:
                files = _read_files(self._directory)
                if files != _decoded(found):
                    await self._replace(found, files)
            except KubeError as error:
                if error.is_conflict:
                    continue
                raise
            return state
        raise KubeError(f"Secret {SECRET} changes all the time; try again")

    def _take(self, found: Manifest) -> None:
        files = _decoded(found)
        missing = [name for name in _FILES if name not in files]
        if missing:
            raise ConfigError(
                f"Secret {self._namespace}/{SECRET} has no {', '.join(missing)}: restore it from a "
                "backup. New keys would cut off every node"
            )
        with locked(self._directory / "write.lock", wait=True, busy=""):
            for name in _FILES:
                path = self._directory / name
                if not path.exists() or path.read_bytes() != files[name]:
                    replace_private(path, files[name])
        # Refuses what cannot be used, before anybody signs with it.
        StateDir(self._directory).load_ca()
        self._version = str(metadata_of(found).get("resourceVersion", ""))

    async def _replace(self, found: Manifest, files: dict[str, bytes]) -> None:
        made = {**found, "data": self._manifest(files)["data"]}
        saved = await self._client.replace(self._path, made)
        self._version = str(metadata_of(saved).get("resourceVersion", ""))

    def _manifest(self, files: dict[str, bytes]) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": SECRET,
                "namespace": self._namespace,
                "labels": {MANAGED_BY: MANAGER},
            },
            "type": "Opaque",
            "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
        }


def _decoded(secret: Manifest) -> dict[str, bytes]:
    data = secret.get("data")
    try:
        return {
            str(name): base64.b64decode(str(text), validate=True)
            for name, text in (data.items() if isinstance(data, dict) else ())
        }
    except binascii.Error as error:
        raise ConfigError(f"Secret {SECRET} is corrupt: {error}") from error


def _read_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in _FILES}


def _remove(directory: Path) -> None:
    for file in directory.glob("*"):
        file.unlink()
    directory.rmdir()
