"""TLS 1.3 over memory: contexts made from credentials, and a channel that turns bytes into bytes.

Own `SSLObject` handling instead of the event loop's TLS transport: nothing is parsed or sent
between the handshake and the identity check, an idle connection holds no read buffer (the loop's
transport keeps 256 KiB per connection), and a failed handshake's alert is ours to send.
"""

from __future__ import annotations

import contextlib
import os
import ssl

from mesh.errors import IdentityError
from mesh.model.credentials import Credentials, Svid
from mesh.tunnel.contract import Loss, LossReason

_ALPN = "h2"
_FEED_BYTES = 64 * 1024  # a memory BIO keeps its largest size, so it is fed in slices

MAX_RECORD_BYTES = 16 * 1024
"""Plaintext of one TLS record at most (RFC 8446 §5.1)."""


class TlsFailure(Exception):
    """A handshake or record failed; `loss` says why."""

    def __init__(self, reason: LossReason, detail: str) -> None:
        super().__init__(detail)
        self.loss = Loss(reason=reason, detail=detail)


def build_context(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    """A context for mutual TLS 1.3 with ALPN h2, without resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # identities are SPIFFE IDs, checked after the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([_ALPN])
    context.options |= ssl.OP_NO_TICKET
    if server:
        context.num_tickets = 0
    try:
        context.load_verify_locations(cadata=credentials.bundle.roots_pem.decode("ascii"))
        _load_svid(context, credentials.svid)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise IdentityError(
            f"key material of {credentials.svid.identity} cannot be used: {error}"
        ) from error
    return context


def _load_svid(context: ssl.SSLContext, svid: Svid) -> None:
    """`ssl` reads keys from paths only: give it one that leads to anonymous memory.

    A process may always open its own /proc/self/fd (fs/proc/fd.c), also after it changed its uid.
    """
    fd = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as memory:
            memory.write(svid.key_pem.rstrip() + b"\n" + svid.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


class TlsChannel:
    """One side of a TLS connection."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)

    def feed(self, data: memoryview) -> None:
        self._incoming.write(data)

    def handshake(self) -> bool:
        """Go on as far as possible; True when done. Raises `TlsFailure`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsFailure(LossReason.TLS, describe_tls_error(error)) from error
        if self._tls.selected_alpn_protocol() != _ALPN:
            raise TlsFailure(LossReason.TLS, f"peer did not agree on ALPN {_ALPN}")
        return True

    def peer_certificate(self) -> bytes | None:
        return self._tls.getpeercert(binary_form=True)

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt what was fed into `buffer`; 0 if there is no whole record. Raises `TlsFailure`.

        Stops early when less than a record's room is left; then call again.
        """
        filled = 0
        size = len(buffer)
        read, incoming = self._tls.read, self._incoming
        try:
            while size - filled >= MAX_RECORD_BYTES:
                count = read(size - filled, buffer[filled:])
                if not count:
                    break
                filled += int(count)
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsFailure(LossReason.TLS, describe_tls_error(error)) from error
        return filled

    @property
    def has_more(self) -> bool:
        """Fed bytes are left that may hold a whole record."""
        return self._incoming.pending > 0

    def encrypt(self, data: bytes) -> bytes:
        """Records for `data`, with whatever TLS itself wants to say before them."""
        self._tls.write(data)
        return self._outgoing.read()

    def pending_output(self) -> bytes:
        """Handshake messages and alerts to send."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """The close_notify alert; empty if TLS was never established."""
        with contextlib.suppress(ssl.SSLError):  # the peer's close_notify is not awaited
            self._tls.unwrap()
        return self._outgoing.read()


_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "peer sent no certificate",
    "NO_APPLICATION_PROTOCOL": f"peer did not agree on ALPN {_ALPN}",
    "HTTP_REQUEST": "peer speaks plain HTTP on a TLS port",
    "HTTPS_PROXY_REQUEST": "peer speaks plain HTTP (CONNECT) on a TLS port",
    "WRONG_VERSION_NUMBER": "peer does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "peer offers no TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "peer refuses TLS 1.3",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "peer demands a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "peer does not trust the issuer of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "peer says that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "peer refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "peer refuses our certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "peer ended the handshake: nothing in common",
    "TLSV1_ALERT_ACCESS_DENIED": "peer denies our identity",
}


def describe_tls_error(error: ssl.SSLError) -> str:
    """Say in words of this mesh what OpenSSL found."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"peer certificate: {error.verify_message}"
    return describe_tls_reason(error.reason or str(error))


def describe_tls_reason(reason: str) -> str:
    """`reason` is OpenSSL's name or text of an error, or already in our words."""
    known = _REASONS.get(reason.upper().replace(" ", "_"))
    return known or (reason.lower().replace("_", " ") if reason.isupper() else reason)
