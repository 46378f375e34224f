"""The CA's state directory (mode 0700) and its files (mode 0600).

    ca.json        trust domains, roots with keys and stages: one file, so never half a rotation
    tokens.json    hashes of join tokens
    server.json    the root and key that the CA's HTTPS server certificate comes from
    server.pem     that server certificate with its key, re-issued before it expires
    serve.lock     held by the one CA that serves from here
    write.lock     held for the moment of a change

State is never regenerated over state that exists, however broken: new roots would cut off every
node without a word. A running CA sees the changes that other processes make here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec

from mesh.errors import ConfigError, IdentityError
from mesh.identity import profiles
from mesh.identity.join import TokenBook, TokenRecord
from mesh.identity.roots import CaState, RootStage, SigningRoot, StagedRoot
from mesh.identity.state_files import (
    FileVersion,
    check_private_dir,
    file_version,
    locked,
    make_private_dir,
    read_private,
    replace_private,
)

FORMAT = 1

_CA, _TOKENS, _SERVER, _SERVER_PEM = "ca.json", "tokens.json", "server.json", "server.pem"
_STATE_FILES = (_CA, _TOKENS, _SERVER)

_Record = TypeVar("_Record", bound="msgspec.Struct")
_Result = TypeVar("_Result")


class _RootFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stage: RootStage
    since: float
    roots_pem: str
    chain_pem: str
    key_pem: str


class _CaFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    trust_domains: list[str]
    revision: int
    roots: list[_RootFile]


class _TokenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: list[TokenRecord]


class _ServerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    root_pem: str
    key_pem: str


class StateDir:
    """An opened state directory. Opening changes nothing."""

    def __init__(self, path: Path) -> None:
        """Open an existing directory; raise `ConfigError` for one that is missing or open."""
        check_private_dir(path)
        self.path = path
        missing = [name for name in _STATE_FILES if not (path / name).exists()]
        if len(missing) == len(_STATE_FILES):
            raise ConfigError(f"{path} holds no CA state. Create the CA first")
        if missing:
            raise ConfigError(
                f"{path} holds part of a CA's state, {', '.join(missing)} is missing. Restore it "
                f"from a backup. Only if this CA never signed anything: remove {path}, create anew"
            )

    @classmethod
    def create(cls, path: Path, state: CaState, server_root: SigningRoot) -> StateDir:
        """Write a new CA's state; raise `ConfigError` if there is anything already."""
        make_private_dir(path)
        with locked(path / "write.lock", wait=True, busy=""):
            present = [name for name in (*_STATE_FILES, _SERVER_PEM) if (path / name).exists()]
            if present:
                raise ConfigError(
                    f"{path} already holds CA state ({', '.join(present)}), which is never "
                    "overwritten. Use it, or choose another directory"
                )
            server = _ServerFile(
                format=FORMAT,
                root_pem=server_root.roots_pem.decode(),
                key_pem=server_root.key_pem.decode(),
            )
            replace_private(path / _SERVER, _encode(server))
            replace_private(path / _TOKENS, _encode(_TokenFile(format=FORMAT, tokens=[])))
            replace_private(path / _CA, _encode(_ca_file(state)))
        return cls(path)

    def serving(self) -> AbstractContextManager[None]:
        """Hold the right to serve; raise `ConfigError` while another CA has it."""
        return locked(
            self.path / "serve.lock",
            wait=False,
            busy=f"another CA serves from {self.path}. Stop it, or join it with a token",
        )

    def ca_version(self) -> FileVersion:
        """Changes whenever the CA's state changes."""
        return file_version(self.path / _CA)

    def token_version(self) -> FileVersion:
        """Changes whenever a token is created or revoked."""
        return file_version(self.path / _TOKENS)

    def load_ca(self) -> tuple[CaState, FileVersion]:
        """The CA's state, checked, and the version it has."""
        record, version = self._load(_CA, _CaFile)
        path = self.path / _CA
        try:
            state = _ca_state(record)
            for staged in state.roots:
                _check_key(staged.root)
        except IdentityError as error:
            raise _corrupt(path, str(error)) from error
        return state, version

    def update_ca(self, change: Callable[[CaState], CaState]) -> CaState:
        """Read, change and write in one step, also against other processes."""
        with self._writing():
            before, _ = self.load_ca()
            after = change(before)
            if after != before:
                replace_private(self.path / _CA, _encode(_ca_file(after)))
            return after

    def load_tokens(self) -> tuple[TokenBook, FileVersion]:
        """The tokens and the version they have."""
        record, version = self._load(_TOKENS, _TokenFile)
        return TokenBook(records=tuple(record.tokens)), version

    def update_tokens(self, change: Callable[[TokenBook], tuple[TokenBook, _Result]]) -> _Result:
        """Read, change and write in one step; returns what `change` returns beside the book."""
        with self._writing():
            before, _ = self.load_tokens()
            after, result = change(before)
            content = _TokenFile(format=FORMAT, tokens=list(after.records))
            replace_private(self.path / _TOKENS, _encode(content))
            return result

    def load_server_root(self) -> SigningRoot:
        """The root that the server's certificate comes from."""
        record, _ = self._load(_SERVER, _ServerFile)
        root = SigningRoot(
            roots_pem=record.root_pem.encode(), chain_pem=b"", key_pem=record.key_pem.encode()
        )
        try:
            _check_key(root)
        except IdentityError as error:
            raise _corrupt(self.path / _SERVER, str(error)) from error
        return root

    def write_server_pem(self, content: bytes) -> Path:
        """Store the server's certificate with its key, for the TLS library; returns the path."""
        path = self.path / _SERVER_PEM
        with self._writing():
            replace_private(path, content)
        return path

    def _writing(self) -> AbstractContextManager[None]:
        return locked(self.path / "write.lock", wait=True, busy="")

    def _load(self, name: str, kind: type[_Record]) -> tuple[_Record, FileVersion]:
        path = self.path / name
        content, version = read_private(path)
        try:
            format_number = msgspec.json.decode(content, type=_Format).format
            if format_number != FORMAT:
                raise ConfigError(
                    f"{path} has format {format_number}, this program reads {FORMAT}. "
                    "Use the version of meshnode that wrote it"
                )
            return msgspec.json.decode(content, type=kind), version
        except msgspec.DecodeError as error:
            raise _corrupt(path, str(error)) from error


class _Format(msgspec.Struct, frozen=True):
    format: int


def _check_key(root: SigningRoot) -> None:
    signer = profiles.load_certificates(root.signer_pem)[0]
    profiles.load_certificates(root.roots_pem)
    if profiles.load_signing_key(root.key_pem).public_key() != signer.public_key():
        raise IdentityError("a key does not belong to its certificate")


def _corrupt(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is corrupt: {reason}. Restore it from a backup")


def _encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def _ca_file(state: CaState) -> _CaFile:
    roots = [
        _RootFile(
            stage=staged.stage,
            since=staged.since,
            roots_pem=staged.root.roots_pem.decode(),
            chain_pem=staged.root.chain_pem.decode(),
            key_pem=staged.root.key_pem.decode(),
        )
        for staged in state.roots
    ]
    return _CaFile(
        format=FORMAT,
        trust_domains=list(state.trust_domains),
        revision=state.revision,
        roots=roots,
    )


def _ca_state(record: _CaFile) -> CaState:
    roots = tuple(
        StagedRoot(
            root=SigningRoot(
                roots_pem=root.roots_pem.encode(),
                chain_pem=root.chain_pem.encode(),
                key_pem=root.key_pem.encode(),
            ),
            stage=root.stage,
            since=root.since,
        )
        for root in record.roots
    )
    return CaState(trust_domains=tuple(record.trust_domains), roots=roots, revision=record.revision)
