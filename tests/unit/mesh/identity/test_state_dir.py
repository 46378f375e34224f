"""The CA's state directory: private, whole, never regenerated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.identity.roots import CaState, publish_root
from mesh.identity.state_dir import StateDir
from tests.unit.mesh.identity.builders import NOW, ca_state, root

FILES = ("ca.json", "tokens.json", "server.json")


@pytest.fixture
def state() -> CaState:
    return ca_state()


@pytest.fixture
def path(tmp_path: Path, state: CaState) -> Path:
    return StateDir.create(tmp_path / "ca", state, root()).path


def load_all(path: Path) -> None:
    opened = StateDir(path)
    opened.load_ca()
    opened.load_tokens()
    opened.load_server_root()


def test_what_is_written_is_read(path: Path, state: CaState) -> None:
    assert StateDir(path).load_ca()[0] == state


def test_modes(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o700
    for file in path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_nothing_is_created_over_existing_state(path: Path, state: CaState) -> None:
    before = (path / "ca.json").read_bytes()
    for name in FILES:
        with pytest.raises(ConfigError, match="never overwritten"):
            StateDir.create(path, ca_state(), root())
        (path / name).rename(path.parent / name)
    assert (path.parent / "ca.json").read_bytes() == before


@pytest.mark.parametrize("name", FILES)
def test_partial_state_names_what_is_missing(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        StateDir(path)


def test_no_state_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        StateDir(tmp_path / "nowhere")
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="holds no CA state"):
        StateDir(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"format":1}', b"\xff\xfe", b"[1]"])
def test_corrupt_files_are_named(path: Path, name: str, content: bytes) -> None:
    (path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} is corrupt"):
        load_all(path)
    assert (path / name).read_bytes() == content


def test_a_key_of_another_certificate_is_corruption(path: Path) -> None:
    other = ca_state()
    text = (path / "ca.json").read_text()
    mine = StateDir(path).load_ca()[0].active.key_pem.decode().replace("\n", "\\n")
    theirs = other.active.key_pem.decode().replace("\n", "\\n")
    assert mine in text
    (path / "ca.json").write_text(text.replace(mine, theirs))
    with pytest.raises(ConfigError, match="does not belong"):
        StateDir(path).load_ca()


def test_a_newer_format_is_not_called_corrupt(path: Path) -> None:
    (path / "ca.json").write_text('{"format": 2, "more": true}')
    with pytest.raises(ConfigError, match="has format 2"):
        load_all(path)


def test_permissions_too_open(path: Path) -> None:
    for name in FILES:
        (path / name).chmod(0o640)
        with pytest.raises(ConfigError, match=rf"{name} is open to other users.*chmod 0600"):
            load_all(path)
        (path / name).chmod(0o600)
    path.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 0700"):
        StateDir(path)


def test_links_are_not_followed(path: Path) -> None:
    target = path / "ca.json"
    target.rename(path / "elsewhere.json")
    target.symlink_to(path / "elsewhere.json")
    with pytest.raises(ConfigError, match=r"ca\.json cannot be read"):
        load_all(path)


def test_one_ca_at_a_time(path: Path) -> None:
    with (
        StateDir(path).serving(),
        pytest.raises(ConfigError, match="another CA serves"),
        StateDir(path).serving(),
    ):
        pytest.fail("two CAs serve from one directory")
    with StateDir(path).serving():
        pass


def test_changes_are_seen_by_version_and_survive_reopening(path: Path) -> None:
    opened, new = StateDir(path), root()
    before = opened.ca_version()
    opened.update_ca(lambda state: publish_root(state, new, NOW))
    assert opened.ca_version() != before
    assert len(StateDir(path).load_ca()[0].roots) == 2


def test_a_failed_change_leaves_the_old_state(path: Path, state: CaState) -> None:
    (path / ".ca.json.tmp").mkdir()  # The replacement cannot be written.
    with pytest.raises(ConfigError, match="cannot be written"):
        StateDir(path).update_ca(lambda old: publish_root(old, root(), NOW))
    assert StateDir(path).load_ca()[0] == state


def test_a_temporary_file_left_by_a_crash_does_no_harm(path: Path) -> None:
    (path / ".ca.json.tmp").write_bytes(b"half a st")
    StateDir(path).update_ca(lambda old: publish_root(old, root(), NOW))
    load_all(path)
    assert not (path / ".ca.json.tmp").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_raise_config_errors_only(path: Path, junk: bytes) -> None:
    for name in FILES:
        good = (path / name).read_bytes()
        (path / name).write_bytes(junk)
        with pytest.raises(ConfigError):
            load_all(path)
        (path / name).write_bytes(good)
