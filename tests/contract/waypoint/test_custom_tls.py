"""External authorizers by TLS: asked only where they prove who they are."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from mesh.model.credentials import Credentials
from mesh.model.provider import ExternalAuthorizer, ProviderProtocol, ProviderTls
from tests.contract.http1.stage import run
from tests.contract.waypoint.authorizers import ASK, GUARD, app, authorizer, by_ticket
from tests.contract.waypoint.scene import Script, loopback, scene, service
from tests.contract.waypoint.test_custom_grpc import Guard, grpc_guard
from tests.support.certs import TestCa, spiffe
from tests.support.ext_authz import CheckResponse, Status

NAME = "guard.example"
CA, OTHER_CA = TestCa(), TestCa()


def issued() -> Credentials:
    return CA.issue(spiffe("guard"), dns_names=[NAME])


def tls(ca: TestCa | None = CA, name: str = NAME) -> ProviderTls:
    return ProviderTls(server_name=name, ca_pem=ca.bundle().roots_pem.decode() if ca else "")


async def asked(provider: ExternalAuthorizer, port: int) -> tuple[int, str]:
    """Status of a request about which an authorizer is asked, and what the log says."""
    script = Script(
        policies=(ASK,), providers=(provider,), services=(service("guard", loopback(port)),)
    )
    async with scene(app, script=script) as here:
        status, _, _ = await here.get("/asked/x", "x-ticket: good")
        (record,) = here.records
        return status, record.details


@pytest.mark.parametrize(
    ("how", "status", "why"),
    [
        (tls(), 200, ""),
        (tls(OTHER_CA), 403, "certificate verify failed"),
        (tls(name="other.example"), 403, "certificate verify failed"),
        (tls(None), 403, "certificate verify failed"),
        (None, 403, "ext_authz_error"),
    ],
    ids=["proven", "another authority", "another name", "the system's authorities", "plain"],
)
def test_an_authorizer_by_https(
    tmp_path: Path, how: ProviderTls | None, status: int, why: str
) -> None:
    own = issued().svid
    (tmp_path / "chain").write_bytes(own.chain_pem)
    (tmp_path / "key").write_bytes(own.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")

    async def main() -> None:
        seen: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await authorizer(by_ticket, seen)(reader, writer)
            except (asyncio.IncompleteReadError, OSError):
                writer.close()

        async with AsyncExitStack() as stack:
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            found, details = await asked(replace(GUARD, tls=how, timeout_s=10.0), port)
            assert (found, why in details) == (status, True), details
            assert bool(seen) == (status == 200)

    run(main())


@pytest.mark.parametrize(
    ("how", "status"), [(tls(), 200), (tls(OTHER_CA), 403)], ids=["proven", "another authority"]
)
def test_an_authorizer_by_grpcs(how: ProviderTls, status: int) -> None:
    own = issued().svid
    credentials = grpc.ssl_server_credentials([(own.key_pem, own.chain_pem)])
    guard = Guard(lambda _: CheckResponse(status=Status(code=0)))
    provider = replace(GUARD, protocol=ProviderProtocol.GRPC, tls=how, timeout_s=10.0)

    async def main() -> None:
        with grpc_guard(guard, credentials) as address:
            found, details = await asked(provider, address.port)
            assert found == status, details
            assert len(guard.asked) == (status == 200)

    run(main())
