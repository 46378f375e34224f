"""From the bytes of a head to a checked value: framing, connection options, target (RFC 9112).

What belongs to one connection only is taken out here, so that nothing later can pass it on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.http1.grammar import (
    check_host,
    is_token,
    list_items,
    parse_fields,
    parse_length,
    split_lines,
)
from mesh.http1.message import (
    CONNECT,
    Framing,
    Headers,
    Limits,
    MessageError,
    RequestHead,
    ResponseHead,
)

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)

# RFC 9110 §7.6.1, with the ones that predate it. `te` is kept as a flag.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
_FRAMING = frozenset((b"content-length", b"host", b"expect"))
_SPECIAL = _HOP_BY_HOP | _FRAMING
# What a Connection field may not take away: a client could unmask or forge what later hops see.
_PROTECTED = frozenset(
    (b"authorization", b"cookie", b"forwarded", b"via", b"x-request-id", b"traceparent")
)
_ORDINARY_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
_AUTHORITY = re.compile(rb".+:([0-9]{1,5})")
_NEVER_UPGRADED = (b"h2c", b"http/", b"tls/")


Special = dict[bytes, list[bytes]]
"""Values of the fields that say something about message or connection, by name."""


def _sort_fields(fields: Headers) -> tuple[Special, Headers]:
    """Separate the special fields from those that are passed on."""
    special: Special = {}
    kept: Headers = []
    for item in fields:
        name = item[0]
        if name in _SPECIAL:
            special.setdefault(name, []).append(item[1])
        else:
            kept.append(item)
    if b"connection" in special:
        named = set(_options(special)) - _PROTECTED
        if named - _ORDINARY_OPTIONS:
            kept = [item for item in kept if item[0] not in named]
    return special, kept


def _options(special: Special) -> list[bytes]:
    """What Connection says."""
    values = special.get(b"connection")
    return [item for value in values for item in list_items(value)] if values else []


def _takes_trailers(special: Special) -> bool:
    values = special.get(b"te")
    return bool(values) and any(b"trailers" in list_items(value) for value in values or ())


def parse_request_head(block: bytes, limits: Limits) -> RequestHead:
    """Parse everything up to, without, the empty line. Raises `MessageError`."""
    lines = split_lines(block)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise MessageError(400, "http1.bad_request_line", f"request line {lines[0][:64]!r}")
    method, target, major, minor = match.groups()
    if len(lines[0]) > limits.line_bytes:
        raise MessageError(414, "http1.long_target", f"more than {limits.line_bytes} bytes")
    if major != b"1" or minor not in b"01":
        raise MessageError(505, "http1.bad_version", f"version {major + b'.' + minor!r}")
    is_10 = minor == b"0"
    special, headers = _sort_fields(parse_fields(lines[1:], limits.fields))
    if method == CONNECT:
        return _connect(target, special, headers, is_10)
    target, host = _target(method, target, _host(special, is_10))
    framing, length = _request_framing(special, is_10)
    expects = _expects(special)
    options = _options(special)
    return RequestHead(
        method=method,
        target=target,
        host=host,
        headers=headers,
        minor=0 if is_10 else 1,
        framing=framing,
        length=length,
        keep_alive=not is_10 and b"close" not in options,
        upgrade=b""
        if is_10 or framing is not Framing.NONE or b"upgrade" not in options
        else _upgrade(special),
        expects_continue=expects and not is_10 and framing is not Framing.NONE,
        takes_trailers=_takes_trailers(special),
    )


def _connect(target: bytes, special: Special, headers: Headers, is_10: bool) -> RequestHead:
    """A request for a tunnel (RFC 9110 §9.3.6): it has no body, and what follows may be the
    tunnel's bytes, so that without a tunnel the connection must end."""
    if special.get(b"transfer-encoding") or parse_length(special.get(b"content-length", [b"0"])):
        raise MessageError(400, "http1.connect_body", "CONNECT with a body")
    check_authority(target)
    host = _host(special, True)
    if host and host.lower() not in (target.lower(), target.lower().rpartition(b":")[0]):
        raise MessageError(400, "http1.host_mismatch", "target and Host name different hosts")
    return RequestHead(
        method=CONNECT,
        target=target,
        host=target,
        headers=headers,
        minor=0 if is_10 else 1,
        framing=Framing.NONE,
        length=None,
        keep_alive=False,
        upgrade=CONNECT,
    )


def check_authority(value: bytes) -> bytes:
    """Return the target of a CONNECT; raise `MessageError` for any form but `host:port`."""
    check_host(value)
    match = _AUTHORITY.fullmatch(value)
    if match is None or not 0 < int(match[1]) < 65536:
        raise MessageError(400, "http1.bad_target", f"CONNECT {value[:64]!r} is not host:port")
    return value


def _host(special: Special, is_10: bool) -> bytes:
    """RFC 9112 §3.2: exactly one Host, but for HTTP/1.0."""
    hosts = special.get(b"host")
    if hosts is None:
        if is_10:
            return b""
        raise MessageError(400, "http1.no_host", "Host is missing")
    if len(hosts) > 1:
        raise MessageError(400, "http1.many_hosts", "Host stands more than once")
    return check_host(hosts[0])


def _target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """The origin-form of a target, and the host (RFC 9112 §3.2.2)."""
    if method != method.upper():
        raise MessageError(400, "http1.bad_method", f"method {method[:32]!r} is not upper case")
    if b"#" in target:
        raise MessageError(400, "http1.bad_target", "a target with a fragment")
    if target.startswith(b"/"):
        return target, host
    if target == b"*" and method == b"OPTIONS":
        return target, host
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise MessageError(400, "http1.bad_target", f"target {target[:64]!r}")
    _, authority, rest = match.groups()
    check_host(authority)
    if host and authority.lower() != host.lower():
        raise MessageError(400, "http1.host_mismatch", "target and Host name different hosts")
    return rest if rest.startswith(b"/") else b"/" + rest, authority


def _request_framing(special: Special, is_10: bool) -> tuple[Framing, int | None]:
    codings, lengths = special.get(b"transfer-encoding"), special.get(b"content-length")
    if codings:
        if lengths:
            raise MessageError(400, "http1.length_and_coding", "both lengths of a body are given")
        if is_10:
            raise MessageError(400, "http1.coding_in_10", "Transfer-Encoding in HTTP/1.0")
        _check_chunked(codings, 501)
        return Framing.CHUNKED, None
    if lengths:
        length = parse_length(lengths)
        return (Framing.LENGTH if length else Framing.NONE), length
    return Framing.NONE, None


def _check_chunked(codings: list[bytes], unknown_status: int) -> None:
    """Only `chunked`, written once, without anything around it."""
    if len(codings) == 1 and codings[0].lower() == b"chunked":
        return
    names = [name for value in codings for name in list_items(value)]
    well_formed = len(codings) == 1 and all(map(is_token, names)) and names
    if well_formed and names.count(b"chunked") <= 1:
        raise MessageError(unknown_status, "http1.unknown_coding", f"coding {codings[0][:64]!r}")
    raise MessageError(400, "http1.bad_coding", f"Transfer-Encoding {codings[0][:64]!r}")


def _expects(special: Special) -> bool:
    expects = special.get(b"expect")
    if expects is None:
        return False
    if len(expects) > 1 or expects[0].lower() != b"100-continue":
        raise MessageError(417, "http1.bad_expectation", f"Expect {expects[0][:64]!r}")
    return True


def _upgrade(special: Special) -> bytes:
    """The one protocol asked for; none if there are several or it is another HTTP."""
    names = [name for value in special.get(b"upgrade", ()) for name in list_items(value)]
    if len(names) != 1:
        return b""
    (name,) = names
    return b"" if name.startswith(_NEVER_UPGRADED) else name


def parse_response_head(block: bytes, limits: Limits, request: RequestFacts) -> ResponseHead:
    """Parse a response to `request`. Raises `MessageError` with status 502."""
    try:
        return _parse_response(block, limits, request)
    except MessageError as error:
        raise MessageError(502, error.code, str(error)) from error


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What of a request decides how long its response is."""

    is_head: bool = False
    upgrade: bytes = b""


def _parse_response(block: bytes, limits: Limits, request: RequestFacts) -> ResponseHead:
    lines = split_lines(block)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise MessageError(502, "http1.bad_status_line", f"status line {lines[0][:64]!r}")
    minor, status = int(match[1]), int(match[2])
    special, headers = _sort_fields(parse_fields(lines[1:], limits.fields))
    upgrade = b""
    if status == 101 and (not request.upgrade or _upgrade(special) != request.upgrade):
        raise MessageError(502, "http1.bad_upgrade", "101 for an upgrade nobody asked for")
    framing, length = _response_framing(special, status, minor, request)
    if framing is Framing.RAW:
        upgrade = request.upgrade
    options = _options(special)
    close = b"close" in options or framing is Framing.UNTIL_CLOSE
    persistent = minor == 1 or b"keep-alive" in options
    return ResponseHead(
        status=status,
        headers=headers,
        minor=minor,
        framing=framing,
        length=length,
        keep_alive=persistent and not close and framing is not Framing.RAW,
        upgrade=upgrade,
    )


def _response_framing(
    special: Special, status: int, minor: int, request: RequestFacts
) -> tuple[Framing, int | None]:
    """RFC 9112 §6.3, rules 1 to 8 in their order; but CONNECT's first, which leaves no doubt."""
    if request.upgrade == CONNECT and 200 <= status < 300:
        return Framing.RAW, None
    codings, lengths = special.get(b"transfer-encoding"), special.get(b"content-length")
    if codings and lengths:
        raise MessageError(502, "http1.length_and_coding", "both lengths of a body are given")
    if codings and minor == 0:
        raise MessageError(502, "http1.coding_in_10", "Transfer-Encoding in HTTP/1.0")
    if codings:
        _check_chunked(codings, 502)
    length = parse_length(lengths) if lengths else None
    if status == 101:
        return Framing.RAW, None
    if status < 200 or status == 204:
        return Framing.NONE, None
    if request.is_head or status == 304:
        return Framing.NONE, length
    if codings:
        return Framing.CHUNKED, None
    if length is not None:
        return (Framing.LENGTH if length else Framing.NONE), length
    return Framing.UNTIL_CLOSE, None
