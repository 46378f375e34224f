"""Asking an authorizer by `envoy.service.auth.v3.Authorization/Check`. Pure.

gRPC's framing (grpc/doc/PROTOCOL-HTTP2.md) is done here: one message each way, uncompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from mesh.errors import RemoteProtocolError
from mesh.http1.message import Framing, RequestHead
from mesh.model.address import SocketAddress
from mesh.routing.message import fold_headers
from waypoint.contract import Origin
from waypoint.security.custom.answer import (
    Answer,
    Failed,
    Permit,
    Refusal,
    usable_fields,
    usable_parameters,
)
from waypoint.security.custom.messages import (
    METHOD,
    CheckResponse,
    DeniedHttpResponse,
    HeaderValueOption,
    OkHttpResponse,
    Tree,
    decode_check,
    encode_check,
)
from waypoint.upstream.unary import Whole

_PREFIX = struct.Struct("!BI")
_DENIAL = 403
# envoy.config.core.v3.HeaderValueOption.HeaderAppendAction
_ADD_IF_ABSENT, _OVERWRITE_IF_EXISTS = 1, 3
_OK = 0


def check_head(timeout_s: float) -> RequestHead:
    """The head of every question."""
    return RequestHead(
        method=b"POST",
        target=METHOD,
        host=b"",
        headers=[
            (b"content-type", b"application/grpc"),
            (b"grpc-timeout", b"%dm" % max(1, round(timeout_s * 1000))),
            (b"user-agent", b"meshnode-waypoint"),
        ],
        minor=1,
        framing=Framing.CHUNKED,
        length=None,
        keep_alive=True,
        takes_trailers=True,
    )


def check_body(origin: Origin, head: RequestHead, body: bytes | None, epoch_s: float) -> bytes:
    """The question about a request; `body` None: it is not to be shown."""
    seconds = int(epoch_s)
    time: Tree = {"seconds": seconds, "nanos": int((epoch_s - seconds) * 1e9)}
    source: dict[str, Tree | list[Tree] | str | bytes | int] = {"address": _address(origin.client)}
    if origin.principal is not None:
        source["principal"] = str(origin.principal)
    destination: Tree = {
        "address": _address(origin.dialled),
        "service": origin.service.hostname if origin.service else "",
    }
    attributes: Tree = {
        "source": source,
        "destination": destination,
        "request": {"time": time, "http": _http(head, body)},
    }
    message = encode_check(attributes)
    return _PREFIX.pack(0, len(message)) + message


def _http(head: RequestHead, body: bytes | None) -> Tree:
    http: dict[str, Tree | list[Tree] | str | bytes | int] = {
        "id": _first(head, b"x-request-id"),
        "method": _text(head.method),
        "headers": [
            {"key": name, "value": value}
            for name, value in fold_headers(
                [
                    *((_text(n), _text(v)) for n, v in head.headers),
                    (":authority", _text(head.host)),
                    (":method", _text(head.method)),
                    (":path", _text(head.target)),
                    (":scheme", "http"),
                ]
            ).items()
        ],
        "path": _text(head.target),
        "host": _text(head.host),
        "scheme": "http",
        "size": -1 if head.length is None else head.length,
    }
    if body is not None:
        http["size"] = len(body)
        http["raw_body"] = body
        if body.isascii():
            http["body"] = body.decode("ascii")
    return http


def _text(data: bytes) -> str:
    """Protobuf strings are UTF-8; what is not becomes `!` (as Envoy does), so that nothing that
    could be taken for something else comes out."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else "!" for byte in data)


def _first(head: RequestHead, wanted: bytes) -> str:
    return next((_text(value) for name, value in head.headers if name == wanted), "")


def _address(address: SocketAddress) -> Tree:
    return {"socket_address": {"address": str(address.ip), "port_value": address.port}}


def check_answer(whole: Whole, head: RequestHead) -> Answer:
    """What an answer means for a request."""
    fields = dict(whole.headers)
    fields.update(whole.trailers)
    code = fields.get(b"grpc-status", b"")
    if whole.status != 200 or code != b"0":
        said = _text(fields.get(b"grpc-message", b""))[:200]
        status = _text(code) or "none"
        return Failed(detail=f"HTTP {whole.status}, grpc-status {status} {said}".rstrip())
    try:
        return _meaning(decode_check(_message(whole.body)), head)
    except RemoteProtocolError as error:
        return Failed(detail=str(error))


def _message(data: bytes) -> bytes:
    if len(data) < _PREFIX.size:
        raise RemoteProtocolError("the answer holds no message")
    compressed, length = _PREFIX.unpack_from(data)
    if compressed or len(data) != _PREFIX.size + length:
        raise RemoteProtocolError("the answer is not one uncompressed message")
    return data[_PREFIX.size :]


def _meaning(answer: CheckResponse, head: RequestHead) -> Answer:
    if answer.error_response is not None:
        return Failed(detail=f"the authorizer reports an error: {answer.status.message[:200]}")
    if answer.status.code != _OK:
        return _refusal(answer.denied_response or DeniedHttpResponse())
    return _permit(answer.ok_response or OkHttpResponse(), head)


def _refusal(denied: DeniedHttpResponse) -> Refusal:
    code = denied.status.code
    return Refusal(
        status=code if 200 <= code < 600 else _DENIAL,
        headers=usable_fields(_fields(denied.headers)),
        body=denied.body,
    )


def _permit(answer: OkHttpResponse, head: RequestHead) -> Permit:
    present = {name for name, _ in head.headers}
    added = [item for item in answer.headers if item.append.value]
    replaced = [
        item
        for item in answer.headers
        if not item.append.value and _takes_effect(item, _name(item) in present)
    ]
    return Permit(
        set_headers=usable_fields(_fields(replaced)),
        added_headers=usable_fields(_fields(added)),
        removed_headers=frozenset(_bytes(n.lower()) for n in answer.headers_to_remove),
        set_query=usable_parameters((q.key, q.value) for q in answer.query_parameters_to_set),
        removed_query=frozenset(answer.query_parameters_to_remove),
        response_headers=usable_fields(_fields(answer.response_headers_to_add)),
    )


def _takes_effect(option: HeaderValueOption, present: bool) -> bool:
    if option.append_action == _ADD_IF_ABSENT:
        return not present
    return present or option.append_action != _OVERWRITE_IF_EXISTS


def _fields(options: Iterable[HeaderValueOption]) -> list[tuple[bytes, bytes]]:
    return [
        (_name(option), option.header.raw_value or _bytes(option.header.value))
        for option in options
    ]


def _name(option: HeaderValueOption) -> bytes:
    return _bytes(option.header.key.lower())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8")
