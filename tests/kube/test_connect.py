"""Finding the API server and proving who we are: kubeconfig, plugins, TLS, redirects."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException

from mesh.errors import ConfigError
from mesh.identity.profiles import new_root
from mesh.identity.roots import SigningRoot
from mesh.identity.server_tls import SERVER_NAME, issue_server_pem
from mesh.sources.kubernetes.access import TOKEN_REFRESH_S, ApiAccess, access_of_pod
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.kubeconfig import REFRESH_S, refresher
from mesh.sources.kubernetes.transport import KubeApi
from tests.support.kube_api import KubeApiServer, bearer
from tests.unit.mesh.identity.builders import random_bytes

NAMESPACES = "/api/v1/namespaces"


def kubeconfig(path: Path, cluster: Mapping[str, object], user: Mapping[str, object]) -> Path:
    """A file as kubectl has it."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": dict(cluster)}],
        "users": [{"name": "u", "user": dict(user)}],
    }
    file = path / "config"
    file.write_text(yaml.safe_dump(content))
    return file


async def get(access: ApiAccess, path: str = NAMESPACES) -> bytes:
    async with KubeApi(access) as api:
        return await api.request("GET", path)


def test_a_token_from_a_file(tmp_path: Path) -> None:
    async def run() -> None:
        server = KubeApiServer(token="secret")
        async with server.running():
            cluster = {"server": f"http://127.0.0.1:{server.port}"}
            good = await load_configuration(kubeconfig(tmp_path, cluster, {"token": "secret"}))
            assert json.loads(await get(good))["kind"] == "NamespaceList"
            bad = await load_configuration(kubeconfig(tmp_path, cluster, {"token": "other"}))
            with pytest.raises(KubeError, match="HTTP 401 Unauthorized") as caught:
                await get(bad)
            assert caught.value.status == 401

    asyncio.run(run())


def test_a_token_from_a_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)

    async def run() -> None:
        server = KubeApiServer(token="from-plugin")
        async with server.running():
            cluster = {"server": f"http://127.0.0.1:{server.port}"}
            spec = {"apiVersion": credential["apiVersion"], "command": str(plugin)}
            made = await load_configuration(kubeconfig(tmp_path, cluster, {"exec": spec}))
            assert json.loads(await get(made))["kind"] == "NamespaceList"

    asyncio.run(run())


def test_a_certificate_that_is_not_under_the_root_of_the_cluster_is_refused(
    tmp_path: Path,
) -> None:
    root = new_root("cluster", time.time(), random_bytes, 86400.0)
    stranger = new_root("stranger", time.time(), random_bytes, 86400.0)
    tls = _server_tls(tmp_path, root)

    async def run() -> None:
        server = KubeApiServer()
        async with server.running(tls):
            for ca, works in ((root, True), (stranger, False)):
                (tmp_path / "ca.pem").write_bytes(ca.roots_pem)
                cluster = {
                    "server": f"https://127.0.0.1:{server.port}",
                    "certificate-authority": str(tmp_path / "ca.pem"),
                    "tls-server-name": SERVER_NAME,
                }
                made = await load_configuration(kubeconfig(tmp_path, cluster, {}))
                if works:
                    assert json.loads(await get(made))["kind"] == "NamespaceList"
                else:
                    with pytest.raises(KubeError, match="certificate verify failed"):
                        await get(made)

    asyncio.run(run())


@pytest.mark.parametrize("text", [None, "{", "kind: Config\n", "[]"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"{file} cannot be used"):
        asyncio.run(load_configuration(file))


def test_outside_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="Outside a pod write --source kubernetes:KUBECONFIG"):
        asyncio.run(load_configuration())


def test_credentials_are_looked_at_again_once_a_minute() -> None:
    async def run() -> None:
        loaded: list[Configuration] = []
        now_s = [100.0]

        async def load(configuration: Configuration) -> None:
            loaded.append(configuration)

        refresh, configuration = refresher(load, lambda: now_s[0]), Configuration()
        await refresh(configuration)
        assert loaded == []
        now_s[0] += REFRESH_S
        await refresh(configuration)
        await refresh(configuration)
        assert loaded == [configuration]

    asyncio.run(run())


def test_a_plugin_that_fails_leaves_the_credentials_as_they_are() -> None:
    async def run() -> None:
        now_s = [0.0]

        async def load(_: Configuration) -> None:
            raise ConfigException("the plugin ended with status 1")

        refresh, configuration = refresher(load, lambda: now_s[0]), Configuration()
        configuration.api_key["BearerToken"] = "Bearer secret"
        now_s[0] += REFRESH_S
        await refresh(configuration)
        assert configuration.api_key == {"BearerToken": "Bearer secret"}

    asyncio.run(run())


def _server_tls(directory: Path, root: SigningRoot) -> ssl.SSLContext:
    pem = directory / "server.pem"
    pem.write_bytes(issue_server_pem(root, now=time.time(), random_bytes=random_bytes))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    return tls


def test_a_pod_uses_its_account_and_sees_that_the_token_was_renewed(tmp_path: Path) -> None:
    now_s = [100.0]
    token = tmp_path / "token"
    token.write_text("first\n")

    async def run() -> None:
        server = KubeApiServer(token="second")
        root = new_root("cluster", time.time(), random_bytes, 86400.0)
        (tmp_path / "ca.crt").write_bytes(root.roots_pem)
        async with server.running(_server_tls(tmp_path, root), host="::1"):
            environment = {
                "KUBERNETES_SERVICE_HOST": "::1",
                "KUBERNETES_SERVICE_PORT": str(server.port),
            }
            found = access_of_pod(environment, lambda: now_s[0], tmp_path)
            access = replace(found, server_name=SERVER_NAME)
            with pytest.raises(KubeError, match="HTTP 401"):
                await get(access)
            token.write_text("second")
            now_s[0] += TOKEN_REFRESH_S
            assert json.loads(await get(access))["kind"] == "NamespaceList"
            token.write_text("")
            now_s[0] += TOKEN_REFRESH_S
            with pytest.raises(KubeError, match="token is empty"):
                await get(access)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("missing", "says"), [("token", "token cannot be read"), ("ca.crt", "ca.crt: No such file")]
)
def test_an_account_that_lacks_something_is_no_account(
    tmp_path: Path, missing: str, says: str
) -> None:
    root = new_root("cluster", time.time(), random_bytes, 86400.0)
    (tmp_path / "ca.crt").write_bytes(root.roots_pem)
    (tmp_path / "token").write_text("secret")
    (tmp_path / missing).unlink()
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match=says):
        access_of_pod(environment, time.monotonic, tmp_path)


def test_a_redirect_does_not_get_the_token() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            access = ApiAccess(
                server=f"http://127.0.0.1:{runner.addresses[0][1]}", authorization=bearer("secret")
            )
            with pytest.raises(KubeError, match="HTTP 302"):
                await get(access)
        finally:
            await runner.cleanup()

    asyncio.run(run())
    assert seen == [NAMESPACES]
