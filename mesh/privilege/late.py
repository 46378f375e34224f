"""Modules that libraries import at their first use.

A process without privilege may be unable to read where they are installed: a clone in somebody's
home directory is closed to others. So they are imported before the privilege is given up.
"""

from __future__ import annotations

import importlib

LATE_MODULES = (
    "concurrent.futures.thread",  # run_in_executor: looking names up
    "cryptography.hazmat.backends.openssl.backend",  # ECDSA of a token's signature
    "encodings.idna",  # getaddrinfo
    "encodings.punycode",
    "stringprep",
)


def load_late_modules() -> None:
    """Import them now."""
    for name in LATE_MODULES:
        importlib.import_module(name)
