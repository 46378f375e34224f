"""A node whose clock is five minutes off holds valid certificates all the time, and renews them."""

from __future__ import annotations

import pytest

from mesh.identity import profiles
from mesh.identity.ca import CaSettings
from mesh.identity.csr import new_request
from mesh.identity.rotation import Fetch, Lifetime, Priority, RotationPlan
from tests.unit.mesh.identity.builders import NODE, NOW, authority, ca_state, spiffe

WEB = spiffe()


def sign(now: float) -> Lifetime:
    """A certificate from a CA whose clock says `now`."""
    request = new_request(WEB)
    issued = authority(CaSettings()).sign(ca_state(NOW), request.csr_pem, node=NODE, now=now)
    leaf = profiles.load_certificates(profiles.check_svid(request, issued.chain_pem).chain_pem)[0]
    return Lifetime(
        serial=issued.serial,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


@pytest.mark.parametrize("skew_s", [-300.0, 300.0])
def test_five_minutes_of_skew(skew_s: float) -> None:
    plan = RotationPlan(lambda: 0.5)
    true, end = NOW, NOW + 7 * 86400
    assert plan.set_wanted({WEB: Priority.NOW}, true + skew_s) == [Fetch(WEB)]
    held = sign(true)
    plan.fetched(WEB, held, true + skew_s)
    renewals = 0
    while true < end:
        # Valid by the node's own clock, and by that of a peer that is as wrong the other way.
        for clock in (true + skew_s, true - skew_s):
            assert held.not_before <= clock < held.not_after
        deadline = plan.next_deadline()
        assert deadline is not None
        true = deadline - skew_s
        for action in plan.on_deadline(deadline):
            assert action == Fetch(WEB)
            held, renewals = sign(true), renewals + 1
            plan.fetched(WEB, held, deadline)
    assert 12 <= renewals <= 16  # A day long each, renewed at half of it.
