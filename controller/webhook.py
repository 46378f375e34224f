"""Admission: what `meshnode analyze` calls an error is refused before it is stored.

Optional, and of no use to an attacker: it decides nothing but whether an object is stored, and
the API server goes on without it when it is away (failurePolicy Ignore). Warnings are shown to
whoever applied the object.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from mesh.analyze import Finding, analyze_change
from mesh.errors import ConfigError
from mesh.model.snapshot import Severity
from mesh.sources.objects import ObjectSet

PATH = "/validate"
MAX_BODY_BYTES = 8 * 1024 * 1024
"""An object and its former self, each of at most 1.5 MiB in etcd, as JSON."""
MAX_WARNING = 250
"""Kubernetes cuts warnings beyond 256 characters."""

log = logging.getLogger(__name__)


class _Request(msgspec.Struct, frozen=True):
    uid: str
    operation: str = ""
    item: dict[str, object] | None = msgspec.field(default=None, name="object")


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


_decoder = msgspec.json.Decoder(_Review)


def review(body: bytes, objects: ObjectSet) -> Mapping[str, object]:
    """Answer an AdmissionReview (admission.k8s.io/v1); raise `ConfigError` for anything else."""
    try:
        asked = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"no AdmissionReview: {error}") from error
    request = asked.request
    found: list[Finding] = []
    if request.item is not None and request.operation in ("CREATE", "UPDATE"):
        found = analyze_change(objects, request.item)
    errors = [one for one in found if one.severity is Severity.ERROR]
    response: dict[str, object] = {"uid": request.uid, "allowed": not errors}
    if errors:
        text = "; ".join(f"{one.code}: {one.message} ({one.hint})" for one in errors)
        response["status"] = {"code": 422, "reason": "Invalid", "message": text}
    warnings = [_warning(one) for one in found if one.severity is not Severity.ERROR]
    if warnings:
        response["warnings"] = warnings
    return {"apiVersion": asked.api_version, "kind": asked.kind, "response": response}


def _warning(one: Finding) -> str:
    return f"{one.code}: {one.message}"[:MAX_WARNING]


@asynccontextmanager
async def admission_endpoint(
    host: str, port: int, tls: ssl.SSLContext, objects: Callable[[], ObjectSet]
) -> AsyncIterator[int]:
    """Serve while entered; yields the port."""

    async def validate(request: web.Request) -> web.Response:
        try:
            answer = review(await request.read(), objects())
        except ConfigError as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post(PATH, validate)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError as error:
            raise ConfigError(f"the webhook cannot listen on port {port}: {error}") from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
