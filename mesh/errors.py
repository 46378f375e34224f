"""The errors meshnode raises on purpose.

Foreign exceptions are translated into these once, in the adapter that met them. A denied
connection is not an error: it is a `mesh.model.verdict.Verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass


class MeshnodeError(Exception):
    """Base of every expected failure. Its text tells a person what to do next."""


class ConfigError(MeshnodeError):
    """Settings, files or objects that cannot be used as given."""


class ProtocolError(MeshnodeError):
    """A peer, or we ourselves, broke the HBONE or HTTP/2 rules."""


class LocalProtocolError(ProtocolError):
    """We tried a step that the protocol's state forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids."""


class IdentityError(MeshnodeError):
    """A certificate, SPIFFE ID, key or signing request is missing, wrong or refused."""


class UpstreamError(MeshnodeError):
    """The next hop could not be reached, or refused."""


@dataclass
class KernelError(MeshnodeError):
    """A kernel call failed.

    Attributes:
        what: the hook, map, program or call it was about.
        errno: the error number, 0 where there is none.
        hint: what a person can do.
    """

    what: str
    errno: int = 0
    hint: str = ""

    def __str__(self) -> str:
        import os

        cause = f": {os.strerror(self.errno)} (errno {self.errno})" if self.errno else ""
        return f"{self.what}{cause}" + (f". {self.hint}" if self.hint else "")
