"""Asking an authorizer over HTTP, as Envoy's ext_authz filter does. Pure.

It gets the request's method and path (behind a prefix), its host, Authorization and the headers
its provider names, and no body unless that is asked for. 200 allows, 5xx is a failure, anything
else denies and is the client's answer.
"""

from __future__ import annotations

from urllib.parse import quote

from mesh.http1.message import Framing, RequestHead
from mesh.model.policy import StringMatch
from mesh.model.provider import ExternalAuthorizer
from mesh.policy.match import StringSet, compile_strings
from waypoint.security.custom.answer import Answer, Failed, Permit, Refusal, usable_fields
from waypoint.upstream.unary import Whole

# Always shown to the client with a denial (Envoy `allowed_client_headers`).
_DENIAL_FIELDS = frozenset((b"www-authenticate", b"location", b"content-type"))


class HttpCheck:
    """How one provider is asked; its lists are compiled once."""

    def __init__(self, provider: ExternalAuthorizer) -> None:
        # As a URI has it: a blank would end the request's target.
        self._prefix = quote(provider.path_prefix, safe="/-._~!$&'()*+,;=:@%").encode("ascii")
        self._shown = compile_strings(
            (*provider.check_headers, StringMatch(kind="exact", value="authorization"))
        )
        extra = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in provider.extra_headers]
        self._extra = extra
        self._extra_names = {name for name, _ in self._extra}
        self._upstream = compile_strings(provider.upstream_headers)
        self._allowed = compile_strings(provider.allowed_headers)
        self._denied = compile_strings(provider.denied_headers) if provider.denied_headers else None

    def request(self, head: RequestHead, body: bytes) -> RequestHead:
        """The head of the question about a request; its body is `body`."""
        shown = [
            item
            for item in head.headers
            if item[0] not in self._extra_names and _names(self._shown, item[0])
        ]
        target = self._prefix + head.target
        return RequestHead(
            method=head.method,
            target=target,
            host=head.host,
            headers=[*shown, *self._extra],
            minor=1,
            framing=Framing.LENGTH if body else Framing.NONE,
            length=len(body),
            keep_alive=True,
        )

    def answer(self, whole: Whole) -> Answer:
        """What an answer means."""
        if whole.status == 200:
            return Permit(
                set_headers=self._selected(whole, self._upstream),
                response_headers=self._selected(whole, self._allowed),
            )
        if whole.status >= 500:
            return Failed(detail=f"the authorizer answered {whole.status}")
        shown = [
            item
            for item in whole.headers
            if self._denied is None or item[0] in _DENIAL_FIELDS or _names(self._denied, item[0])
        ]
        return Refusal(status=whole.status, headers=usable_fields(shown), body=whole.body)

    def _selected(self, whole: Whole, names: StringSet) -> tuple[tuple[bytes, bytes], ...]:
        return usable_fields(item for item in whole.headers if _names(names, item[0]))


def _names(names: StringSet, name: bytes) -> bool:
    return names.hits((name.decode("latin-1"),))
