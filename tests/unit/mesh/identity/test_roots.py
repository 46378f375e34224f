"""Root rotation: published, then signing, then retired; never a gap."""

from __future__ import annotations

import pytest

from mesh.errors import IdentityError
from mesh.identity.ca import CaSettings
from mesh.identity.csr import new_request
from mesh.identity.profiles import load_certificates
from mesh.identity.roots import (
    CaState,
    RootStage,
    RotationTiming,
    activate_next,
    advance,
    initial_state,
    next_step_at,
    publish_root,
)
from tests.unit.mesh.identity.builders import NODE, NOW, authority, ca_state, root, spiffe

TIMING = RotationTiming(publish_s=10, retire_s=100)


def stages(state: CaState) -> list[RootStage]:
    return [staged.stage for staged in state.roots]


def test_a_rotation_takes_its_steps_when_due() -> None:
    old, new = ca_state(), root()
    assert next_step_at(old, TIMING) is None
    published = publish_root(old, new, NOW)
    assert published.active == old.active
    assert published.revision == old.revision + 1
    assert new.roots_pem in published.bundle.roots_pem
    assert next_step_at(published, TIMING) == NOW + 10
    assert advance(published, TIMING, NOW + 9.9) is published

    active = advance(published, TIMING, NOW + 10)
    assert active.active == new
    assert active.bundle.roots_pem == published.bundle.roots_pem
    assert stages(active) == [RootStage.RETIRING, RootStage.ACTIVE]
    assert advance(active, TIMING, NOW + 109.9) is active

    done = advance(active, TIMING, NOW + 110)
    assert stages(done) == [RootStage.ACTIVE]
    assert done.bundle.roots_pem.strip() == new.roots_pem.strip()
    assert done.revision == published.revision + 1
    assert next_step_at(done, TIMING) is None


def test_a_ca_that_slept_still_keeps_the_overlap() -> None:
    late = advance(publish_root(ca_state(), root(), NOW), TIMING, NOW + 100_000)
    assert stages(late) == [RootStage.RETIRING, RootStage.ACTIVE]


def test_leaves_of_both_roots_verify_against_the_bundle_at_every_step() -> None:
    state = publish_root(ca_state(), root(), NOW)
    settings = CaSettings(leaf_lifetime_s=50, publish_s=10, overlap_s=5)
    last_old_leaf_ends = NOW + 10 + 50
    while next_step_at(state, settings.timing) is not None:
        step_at = next_step_at(state, settings.timing) or 0.0
        issued = authority(settings).sign(
            state, new_request(spiffe()).csr_pem, node=NODE, now=step_at - 1
        )
        leaf = load_certificates(issued.chain_pem)[0]
        issuers = {c.subject for c in load_certificates(state.bundle.roots_pem)}
        assert leaf.issuer in issuers
        state = advance(state, settings.timing, step_at)
    assert step_at > last_old_leaf_ends


def test_one_rotation_at_a_time() -> None:
    published = publish_root(ca_state(), root(), NOW)
    with pytest.raises(IdentityError, match="under way"):
        publish_root(published, root(), NOW)


def test_activation_may_be_forced_but_needs_a_published_root() -> None:
    with pytest.raises(IdentityError, match="begin a rotation"):
        activate_next(ca_state(), NOW)
    new = root()
    assert activate_next(publish_root(ca_state(), new, NOW), NOW).active == new


def test_a_state_without_an_active_root_cannot_be() -> None:
    state = ca_state()
    with pytest.raises(IdentityError, match="exactly one active"):
        CaState(trust_domains=state.trust_domains, roots=(), revision=1)
    with pytest.raises(IdentityError, match="trust domain"):
        initial_state(root(), [], NOW)
