"""Dumps for people hold no credentials."""

from __future__ import annotations

import pytest

from mesh.telemetry.hidden import HIDDEN, hide_secrets

CASES = (
    (
        {"name": "Authorization", "value": "Basic eA=="},
        {"name": "Authorization", "value": HIDDEN},
    ),
    ({"name": "x-tenant", "value": "a"},) * 2,
    (
        {"name": ["cookie"], "values": [{"kind": "exact", "value": "id=1"}], "not_values": []},
        {"name": ["cookie"], "values": [{"kind": "exact", "value": HIDDEN}], "not_values": []},
    ),
    ({"name": ["groups", "cookie"], "values": ["a"]},) * 2,
    ({"extra_headers": [["x-key", "s3cret"]]}, {"extra_headers": [["x-key", HIDDEN]]}),
    (
        {"jwks_uri": "https://me:pw@login.example/keys?code=1"},
        {"jwks_uri": f"https://{HIDDEN}@login.example/keys?{HIDDEN}"},
    ),
    ({"jwks": '{"keys": [{"kty": "RSA", "n": "a"}]}'},) * 2,
    ({"jwks": '{"keys": [{"k" : "a"}]}'}, {"jwks": f"{HIDDEN}: it holds a private key"}),
    ({"a": [1, None, {"url": "http://u:p@h/"}]}, {"a": [1, None, {"url": f"http://{HIDDEN}@h/"}]}),
)


@pytest.mark.parametrize(("plain", "shown"), CASES)
def test_what_is_secret_is_hidden_and_nothing_else(plain: object, shown: object) -> None:
    assert hide_secrets(plain) == shown
