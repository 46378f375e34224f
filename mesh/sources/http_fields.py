"""Values that HTTP objects share: durations, header names, paths, hosts, percentages."""

from __future__ import annotations

import re

from mesh.sources.fields import FieldError, FieldPath

# GEP-2257: one to four parts of at most five digits, no sign, no fraction.
_DURATION = re.compile(r"([0-9]{1,5}(?:h|m|s|ms)){1,4}")
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")  # RFC 9110 §5.6.2
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]{1,4096}")  # RFC 9110 §5.5
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_MAX_HOST = 253
MAX_PATH_CHARS = 1024


def parse_duration(text: str, path: FieldPath) -> float:
    """Parse `1h30m`, `500ms`; seconds. `0s` is 0."""
    if not _DURATION.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a duration such as 1h30m, 10s or 500ms")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def parse_limit(text: str | None, path: FieldPath) -> float | None:
    """Parse a time-out; absent and `0s` are no limit."""
    return (parse_duration(text, path) or None) if text is not None else None


def parse_positive_duration(text: str, path: FieldPath) -> float:
    """Parse a duration that must not be zero."""
    seconds = parse_duration(text, path)
    if not seconds:
        raise FieldError(path, "the duration must be longer than zero")
    return seconds


def parse_header_name(text: str, path: FieldPath) -> str:
    """Check a header's name and write it in lower case."""
    if not _TOKEN.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a header name (RFC 9110 token)")
    return text.lower()


def parse_header_value(text: str, path: FieldPath) -> str:
    """Check a header's value: no line breaks, no NUL, nothing beyond Latin-1."""
    if not _HEADER_VALUE.fullmatch(text):
        raise FieldError(path, "not a header value: 1 to 4096 characters, no control characters")
    try:
        return text.encode().decode("latin-1")
    except UnicodeEncodeError as error:
        raise FieldError(path, "not a header value: it is no valid text") from error


def parse_hostname(text: str, path: FieldPath) -> str:
    """Check a precise host name (RFC 1123), in lower case."""
    if len(text) > _MAX_HOST or not _HOST.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a host name (lower case, no port, no wildcard)")
    return text


def parse_wildcard_hostname(text: str, path: FieldPath) -> str:
    """Check a host name, whose first label may be `*`."""
    parse_hostname(text.removeprefix("*."), path)
    return text


def parse_path(text: str, path: FieldPath) -> str:
    """Check an exact or prefix path by the Gateway API's rules."""
    if len(text) > MAX_PATH_CHARS or not _PATH.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a path: it starts with '/' and has no query")
    lowered = text.lower()
    for bad in ("//", "/./", "/../", "%2f"):
        if bad in lowered:
            raise FieldError(path, f"{text!r}: a path must not contain {bad!r}")
    if text.endswith(("/.", "/..")):
        raise FieldError(path, f"{text!r}: a path must not end with '/.' or '/..'")
    return text


def parse_between(value: int, least: int, most: int, path: FieldPath) -> int:
    """Check a number's range."""
    if not least <= value <= most:
        raise FieldError(path, f"{value} is not between {least} and {most}")
    return value


def check_count(count: int, most: int, path: FieldPath) -> None:
    """Check the length of a list."""
    if count > most:
        raise FieldError(path, f"at most {most} are allowed, this list has {count}", at_key=True)


def parse_percent(value: float, path: FieldPath) -> float:
    """Check a percentage."""
    if not 0 <= value <= 100:
        raise FieldError(path, f"{value} is not a percentage of 0 to 100")
    return value


def parse_positive(value: float, path: FieldPath) -> float:
    """Check a number that must not be zero."""
    if not 0 < value < 1e9:
        raise FieldError(path, f"{value} is not a positive number")
    return value


_QUANTITY = re.compile(r"([0-9]{1,15})(k|M|G|Ki|Mi|Gi)?")
_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def parse_byte_rate(value: int | str, path: FieldPath) -> int:
    """Parse bytes per second: a number or a quantity such as 512Ki."""
    found = _QUANTITY.fullmatch(str(value))
    amount = int(found[1]) * _UNITS.get(found[2], 1) if found else 0
    if not amount:
        raise FieldError(path, f"{value!r} is not bytes per second, such as 512Ki")
    return amount
