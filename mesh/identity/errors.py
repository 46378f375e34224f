"""The ways identity work fails that a caller must tell apart."""

from __future__ import annotations

from mesh.errors import IdentityError, UpstreamError


class BadRequestError(IdentityError):
    """A signing request that is malformed or asks for something a request may not ask for."""


class RefusedError(IdentityError):
    """The CA understood the request and will not sign: the asking node has no right to it."""


class BadTokenError(IdentityError):
    """A join token that is malformed, unknown or revoked."""


class PinMismatchError(IdentityError):
    """The server that answered is not the CA that the join token was made by."""


class CaUnavailableError(UpstreamError):
    """The CA could not be reached, did not answer in time, or cannot sign now. Try again."""
