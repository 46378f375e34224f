"""Compiled programs in a directory, so that a start without pins (after a reboot) compiles nothing.

Off unless `MESHNODE_PROGRAM_CACHE` names a directory. The kernel's verifier judges what comes from
here like all else; still, what runs in every connect() must be root's word: a directory that others
may write to is refused. A file that cannot be read is compiled anew and replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import KernelError

VARIABLE = "MESHNODE_PROGRAM_CACHE"
_WRITABLE_BY_OTHERS = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Byte code by program name, with map numbers where descriptors belong."""

    code: Mapping[str, bytes]
    license: str


@dataclass(frozen=True, slots=True)
class ProgramCache:
    """The directory, made when needed. Nothing is ever removed: a file has some 80 kB."""

    directory: Path

    @staticmethod
    def named(environment: Mapping[str, str]) -> ProgramCache | None:
        """The one that the environment names, if any."""
        text = environment.get(VARIABLE, "")
        return ProgramCache(Path(text)) if text else None

    def find(self, source: bytes, headers: str) -> Compiled | None:
        """What was compiled from this source with these headers. Raises `KernelError`."""
        self._check()
        try:
            found = json.loads(self._file(source, headers).read_bytes())
            code = {str(name): bytes.fromhex(text) for name, text in found["code"].items()}
            return Compiled(code=code, license=str(found["license"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, source: bytes, headers: str, compiled: Compiled) -> None:
        """Keep it for the next start; a full or read-only disk keeps nothing."""
        code = {name: text.hex() for name, text in compiled.code.items()}
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.directory, delete=False) as file:
                json.dump({"license": compiled.license, "code": code}, file)
            Path(file.name).rename(self._file(source, headers))
        except OSError:
            return  # the next start compiles again

    def _file(self, source: bytes, headers: str) -> Path:
        name = hashlib.sha256(source + f" {os.uname().machine} {headers}".encode()).hexdigest()
        return self.directory / f"{name}.json"

    def _check(self) -> None:
        try:
            found = self.directory.stat()
        except OSError:
            return  # nothing is found there
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & _WRITABLE_BY_OTHERS:
            raise KernelError(
                f"{self.directory} may be written to by others than root",
                hint=f"Give it to root alone (chmod 700), or unset {VARIABLE}.",
            )
