"""The functions behind `meshnode controller`'s commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import admin
from mesh.errors import ConfigError, IdentityError
from mesh.identity.ca import CaSettings
from mesh.identity.join import parse_token
from mesh.identity.roots import RootStage
from mesh.identity.server_tls import root_fingerprint
from mesh.identity.state_dir import StateDir
from tests.unit.mesh.identity.builders import NOW, random_bytes, root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create(tmp_path / "ca").path


def create(
    path: Path,
    *,
    trust_domain: str = "example.org",
    aliases: tuple[str, ...] = (),
    given: admin.GivenCa | None = None,
) -> StateDir:
    return admin.init_ca(
        path,
        trust_domain=trust_domain,
        aliases=aliases,
        given=given,
        now=NOW,
        random_bytes=random_bytes,
    )


def test_aliases_follow_the_own_domain(tmp_path: Path) -> None:
    state, _ = create(tmp_path / "x", aliases=("old", "example.org")).load_ca()
    assert state.bundle.trust_domains == ("example.org", "old")


def test_a_bad_trust_domain_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="trust domain"):
        create(tmp_path / "x", trust_domain="Not/One")
    assert not (tmp_path / "x").exists()


def test_a_second_init_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="never overwritten"):
        create(path)


def test_tokens_are_created_listed_and_revoked(path: Path) -> None:
    token = admin.create_token(path, "node-a", now=NOW, random_bytes=random_bytes)
    server_root = StateDir(path).load_server_root().roots_pem
    assert parse_token(token).root_sha256 == root_fingerprint(server_root)
    assert parse_token(token).secret not in (path / "tokens.json").read_text()
    (record,) = admin.list_tokens(path)
    assert (record.node, record.created_at) == ("node-a", NOW)
    admin.revoke_token(path, record.token_id)
    assert admin.list_tokens(path) == []
    with pytest.raises(ConfigError, match="no join token"):
        admin.revoke_token(path, record.token_id)


def test_a_rotation_is_published_then_activated(path: Path) -> None:
    stages = [r.stage for r in admin.rotate_root(path, now=NOW, random_bytes=random_bytes)]
    assert stages == [RootStage.ACTIVE, RootStage.NEXT]
    with pytest.raises(IdentityError, match="under way"):
        admin.rotate_root(path, now=NOW, random_bytes=random_bytes)
    timing = CaSettings(publish_s=10).timing
    assert [r.due_at for r in admin.list_roots(path, timing)] == [None, NOW + 10]
    stages = [r.stage for r in admin.activate_root(path, now=NOW)]
    assert stages == [RootStage.RETIRING, RootStage.ACTIVE]


def test_a_given_ca(tmp_path: Path) -> None:
    own = root()
    files = admin.GivenCa(
        cert_chain=tmp_path / "chain.pem", key=tmp_path / "key.pem", root=tmp_path / "root.pem"
    )
    files.cert_chain.write_bytes(own.roots_pem)
    files.root.write_bytes(own.roots_pem)
    with pytest.raises(ConfigError, match=r"key\.pem cannot be read"):
        create(tmp_path / "ca", given=files)
    files.key.write_bytes(own.key_pem)
    state, _ = create(tmp_path / "ca", given=files).load_ca()
    assert state.active == own
