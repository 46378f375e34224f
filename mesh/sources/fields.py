"""Values of object fields, parsed with an error that names the field.

Inputs: text of a field and its path. Output: typed values, or `FieldError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_network

from mesh.errors import ConfigError, IdentityError
from mesh.model.address import IPAddress, IPNetwork, parse_ip
from mesh.model.identity import SpiffeId, parse_spiffe_id
from mesh.model.policy import ServiceAccountMatch, StringMatch

Step = str | int
FieldPath = tuple[Step, ...]

# RFC 1123: Kubernetes namespaces are labels, most other names subdomains.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


class FieldError(ConfigError):
    """A field of an object is wrong.

    Attributes:
        path: where in the object.
        at_key: the field's name is what is wrong, not its value.
    """

    def __init__(self, path: FieldPath, message: str, *, at_key: bool = False) -> None:
        super().__init__(f"{format_path(path)}: {message}" if path else message)
        self.path = path
        self.at_key = at_key


def format_path(path: FieldPath) -> str:
    """Write a path as people do: `spec.rules[0].from`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse_name(text: str, path: FieldPath) -> str:
    """Check an object's name (RFC 1123 subdomain)."""
    if not _SUBDOMAIN.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a valid name (RFC 1123 subdomain)")
    return text


def parse_namespace(text: str, path: FieldPath) -> str:
    """Check a namespace's name (RFC 1123 label)."""
    if not _LABEL.fullmatch(text):
        raise FieldError(path, f"{text!r} is not a valid namespace (RFC 1123 label)")
    return text


def parse_trust_domain(text: str, path: FieldPath) -> str:
    """Check a trust domain (SPIFFE-ID §2.1)."""
    try:
        SpiffeId(trust_domain=text, namespace="n", service_account="a")
    except IdentityError as error:
        raise FieldError(path, str(error)) from error
    return text


def parse_address(text: str, path: FieldPath) -> IPAddress:
    """Parse an IP address."""
    try:
        return parse_ip(text)
    except ConfigError as error:
        raise FieldError(path, str(error)) from error


def parse_network(text: str, path: FieldPath) -> IPNetwork:
    """Parse a CIDR or a single address; v4-mapped networks become IPv4."""
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise FieldError(path, f"{text!r} is not an IP address or CIDR block") from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ip_network((mapped, network.prefixlen - 96))
    return network


def parse_port(value: str | int, path: FieldPath) -> int:
    """Parse a TCP port, 1 to 65535."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise FieldError(path, f"{text!r} is not a port (1 to 65535)")
    return int(text)


def parse_string_form(text: str, path: FieldPath) -> StringMatch:
    """Parse `exact`, `prefix*`, `*suffix` or `*`."""
    if not text:
        raise FieldError(path, "an empty string matches nothing; '*' means any value that is set")
    if text == "*":
        return StringMatch(kind="present")
    kind, value = "exact", text
    if text.startswith("*"):
        kind, value = "suffix", text[1:]
    elif text.endswith("*"):
        kind, value = "prefix", text[:-1]
    if "*" in value:
        raise FieldError(path, f"{text!r}: '*' may stand only at the start or at the end")
    return StringMatch(kind=kind, value=value)


def parse_principal(text: str, path: FieldPath) -> StringMatch:
    """Parse a principal: a SPIFFE ID without (or with) `spiffe://`, or a string form."""
    match = parse_string_form(text.removeprefix("spiffe://"), path)
    if match.kind == "exact":
        try:
            parse_spiffe_id(f"spiffe://{match.value}")
        except IdentityError as error:
            want = "<trust domain>/ns/<namespace>/sa/<account>"
            raise FieldError(path, f"{text!r} is not a SPIFFE ID of the form {want}") from error
    return match


def parse_service_account(text: str, namespace: str, path: FieldPath) -> ServiceAccountMatch:
    """Parse `account` (of the policy's namespace) or `namespace/account`; exact only."""
    if "*" in text:
        raise FieldError(path, f"{text!r}: service accounts are exact, '*' is not allowed")
    left, slash, right = text.partition("/")
    own, name = (left, right) if slash else (namespace, left)
    return ServiceAccountMatch(namespace=parse_namespace(own, path), name=parse_name(name, path))


def split_list(text: str) -> Sequence[str]:
    """Split the comma-separated value of an annotation."""
    return [part for item in text.split(",") if (part := item.strip())]
