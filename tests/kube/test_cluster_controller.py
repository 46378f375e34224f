"""Two whole controllers on one API server: keys, certificates, rotation, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import ssl
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path

import aiohttp
import pytest

from controller.kubernetes.ca_secret import SECRET
from controller.kubernetes.election import LEASE
from controller.kubernetes.rotate import list_cluster_roots, rotate_cluster_root
from controller.kubernetes.run import run_cluster_controller
from controller.run import ControllerSettings
from mesh.errors import ConfigError
from mesh.identity.roots import RootStage
from tests.kube.led import CLASS, gateway
from tests.kube.replicas import QUICK, SYSTEM, TIMEOUT_S, Stage, play
from tests.kube.test_token_review import (
    ACCOUNT,
    TOKEN,
    ask,
    pod_review,
    workload,
)
from tests.support.processes import free_port


def test_replicas_share_the_keys_and_both_sign(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        one, two = await asyncio.gather(on.start("one"), on.start("two"))
        # Both began without a Secret: one made it, the other took what it made.
        assert (one.path / "ca.json").read_bytes() == (two.path / "ca.json").read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["config", "one", "two"]
        for replica in (one, two):
            assert await ask(replica.path, replica.port, "here", TOKEN) == 200
            assert await ask(replica.path, replica.port, "there", TOKEN) == 403
        on.server.reviews["own"] = pod_review(on.server, "there", "two")
        assert await ask(two.path, two.port, "there", "own") == 200
        assert await ask(two.path, two.port, "here", "own") == 403
        await on.until(lambda: bool(on.published()))
        assert on.holder in ("one", "two")

    play(tmp_path, script)


def test_a_certificate_that_is_asked_for_before_its_pod_is_seen_is_not_refused(
    tmp_path: Path,
) -> None:
    """Of all who hear of a pod, its node is the first."""

    async def script(on: Stage) -> None:
        on.patience_s = TIMEOUT_S
        one = await on.start("one")
        async with asyncio.TaskGroup() as group:
            early = group.create_task(ask(one.path, one.port, "late", TOKEN))
            await asyncio.sleep(0.3)
            await on.server.apply(workload("other", "one", "10.0.0.8"))
            await asyncio.sleep(0.3)
            assert not early.done()
            await on.server.apply(workload("late", "one", "10.0.0.9"))
            assert await early == 200

    play(tmp_path, script)


def test_a_root_is_rotated_with_overlap(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        one, two = await on.start("one"), await on.start("two")
        await on.until(lambda: on.published().count("BEGIN CERTIFICATE") == 1)
        roots = await rotate_cluster_root(
            on.config, SYSTEM, now=time.time(), random_bytes=os.urandom
        )
        assert [root.stage for root in roots] == [RootStage.ACTIVE, RootStage.NEXT]
        # Everybody learns of the new root before it signs; then the old one is still believed.
        await on.until(lambda: on.published().count("BEGIN CERTIFICATE") == 2)
        while True:
            stages = [root.stage for root in await list_cluster_roots(on.config, SYSTEM)]
            if stages == [RootStage.RETIRING, RootStage.ACTIVE]:
                break
            await asyncio.sleep(0.1)
        await on.until(
            lambda: (one.path / "ca.json").read_bytes() == (two.path / "ca.json").read_bytes()
        )
        assert on.published().count("BEGIN CERTIFICATE") == 2
        for replica in (one, two):
            assert await ask(replica.path, replica.port, "here", TOKEN) == 200

    play(tmp_path, script)


def test_when_the_leader_ends_the_other_goes_on_and_keys_survive_both(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        one = await on.start("one")
        await on.until(lambda: on.holder == "one")
        two = await on.start("two")
        one.stop.set()
        await one.task
        await on.until(lambda: on.holder == "two")
        assert await ask(two.path, two.port, "here", TOKEN) == 200
        two.stop.set()
        await two.task
        before = on.get("secrets", SECRET)
        three = await on.start("three")
        assert await ask(three.path, three.port, "here", TOKEN) == 200
        assert on.get("secrets", SECRET) == before

    play(tmp_path, script)


@pytest.mark.slow
def test_a_change_is_written_by_one_of_two_replicas(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        def writes(path: str) -> int:
            return sum(path in line for line in on.server.requests if line[:3] in ("PAT", "POS"))

        def replicas() -> object:
            spec = (on.get("deployments.apps", "wp", "shop") or {}).get("spec")
            return spec.get("replicas") if isinstance(spec, dict) else None

        await on.server.apply(CLASS, gateway(replicas="2"))
        one = await on.start("one", waypoint_image="meshnode:1")
        await on.until(lambda: replicas() == 2)
        two = await on.start("two", waypoint_image="meshnode:1")
        for number in range(2):
            # Somebody else has the lease all of a sudden: the leader sees it when it renews.
            name, key = "leases.coordination.k8s.io", (SYSTEM, LEASE)
            lease = on.server.store.get(name, key)
            spec = lease["spec"]
            assert isinstance(spec, dict)
            taken = {**lease, "spec": {**spec, "holderIdentity": "nobody"}}
            on.server.store.update(name, key, taken, status=False)
            await on.until(lambda: on.holder in ("one", "two"))
            before = writes("/namespaces/shop/deployments/wp")
            await on.server.apply(gateway(replicas=str(3 + number)))
            await on.until(lambda number=number: replicas() == 3 + number)  # type: ignore[misc]
            # Both have seen it by the time that both have seen something later.
            path = f"/namespaces/late-{number}/configmaps/meshnode-ca-root"
            late = {"name": f"late-{number}"}
            await on.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": late})
            await on.until(lambda path=path: writes(path) > 0)  # type: ignore[misc]
            # A new leader applies everything once; the change itself may be in that.
            assert 1 <= writes("/namespaces/shop/deployments/wp") - before <= 2
            assert writes(path) == 1
        secret = on.get("secrets", SECRET)
        assert secret is not None
        assert writes(f"/namespaces/{SYSTEM}/secrets") == 1
        assert not one.task.done()
        assert not two.task.done()

    play(tmp_path, script)


@pytest.mark.slow
def test_a_controller_that_is_killed_while_it_signs_leaves_nothing_half_done(
    tmp_path: Path,
) -> None:
    async def script(on: Stage) -> None:
        path = tmp_path / "killed"
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.cli", "controller", "--ca", str(path)),
            *("--source", f"kubernetes:{on.config}", "--listen", f"127.0.0.1:{free_port()}"),
            *("--agent-account", f"{ACCOUNT.namespace}/{ACCOUNT.name}"),
            *("--namespace", SYSTEM, "--identity", "killed", "--health-port", str(free_port())),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            port = await serving_port(killed)
            await on.until(lambda: on.holder == "killed")
            secret = on.get("secrets", SECRET)
            on.server.faults.delay_s = 30.0
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(failed(ask(path, port, "here", TOKEN)))
                await on.until(lambda: on.server.asked("tokenreviews") > 0)
                killed.kill()
                assert await asking
        finally:
            if killed.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    killed.kill()
            await killed.wait()
        on.server.faults.delay_s = 0.0
        other = await on.start("other")
        assert await ask(other.path, other.port, "here", TOKEN) == 200
        assert on.get("secrets", SECRET) == secret
        # Its lease ends by itself; nobody let go of it.
        await on.until(lambda: on.holder == "other")

    async def serving_port(process: asyncio.subprocess.Process) -> int:
        assert process.stderr is not None
        said = b""
        async for line in process.stderr:
            said += line
            found = re.search(rb"serving certificates on port (\d+)", line)
            if found:
                return int(found[1])
        raise AssertionError(f"the controller ended: {said.decode()}")

    async def failed(asked: Coroutine[None, None, int]) -> bool:
        try:
            return await asked != 200
        except (aiohttp.ClientError, OSError):
            return True

    play(tmp_path, script)


def test_without_the_api_server_known_tokens_still_get_certificates(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        one = await on.start("one")
        await on.until(lambda: on.holder == "one")
        assert await ask(one.path, one.port, "here", TOKEN) == 200
        on.server.faults.down = True
        assert await ask(one.path, one.port, "here", TOKEN) == 200
        # Nobody can say whose token this is: that is no refusal.
        assert await ask(one.path, one.port, "here", "another-token") == 503
        written = on.server.asked("PATCH")
        await asyncio.sleep(QUICK.duration_s * 2)
        assert on.server.asked("PATCH") - written <= 1
        on.server.faults.down = False
        await on.server.apply(workload("new", "one", "10.0.0.7"))
        while await ask(one.path, one.port, "new", TOKEN) != 200:  # noqa: ASYNC110  (asks)
            await asyncio.sleep(0.05)

    play(tmp_path, script)


def test_keys_that_cannot_be_used_stop_the_start_and_stay(tmp_path: Path) -> None:
    async def script(on: Stage) -> None:
        one = await on.start("one")
        one.stop.set()
        await one.task
        secret = on.get("secrets", SECRET) or {}
        data = secret["data"]
        assert isinstance(data, dict)
        broken = {**secret, "data": {**data, "ca.json": base64.b64encode(b"{").decode()}}
        on.server.store.update("secrets", (SYSTEM, SECRET), broken, status=False)
        with pytest.raises(ConfigError, match="Restore it from a backup"):
            await run_cluster_controller(
                on.settings("two"),
                ControllerSettings(state_dir=tmp_path / "two"),
                stop=asyncio.Event(),
                on_ready=lambda _: None,
            )
        kept = (on.get("secrets", SECRET) or {})["data"]
        assert kept == broken["data"]

    play(tmp_path, script)


def test_the_webhook_refuses_errors_and_warns(tmp_path: Path) -> None:
    port = free_port()

    async def script(on: Stage) -> None:
        one = await on.start("one", webhook_port=port)
        name = "validatingwebhookconfigurations.admissionregistration.k8s.io"
        await on.until(lambda: on.get(name, "meshnode", "") is not None)
        found = on.get(name, "meshnode", "") or {}
        hooks = found["webhooks"]
        assert isinstance(hooks, list)
        client = hooks[0]["clientConfig"]
        root = base64.b64decode(client["caBundle"]).decode()
        assert hooks[0]["failurePolicy"] == "Ignore"
        good = await admit(root, {"rules": [{}]})
        assert good == {"uid": "u", "allowed": True}
        warned = await admit(root, {})
        assert warned["allowed"] is True
        assert "MN0212" in str(warned["warnings"])
        refused = await admit(root, {"rule": []})
        assert refused["allowed"] is False
        assert "MN0001: spec.rule: unknown field" in str(refused["status"])
        assert one.task.done() is False

    async def admit(root: str, spec: object) -> Mapping[str, object]:
        policy = {
            "apiVersion": "meshnode.io/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": spec,
        }
        body = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "u", "operation": "CREATE", "object": policy},
        }
        tls = ssl.create_default_context(cadata=root)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://127.0.0.1:{port}/validate",
                data=json.dumps(body),
                ssl=tls,
                server_hostname=f"meshnode-controller.{SYSTEM}.svc",
            ) as response,
        ):
            answer = await response.json()
            found = answer["response"]
            assert isinstance(found, dict)
            return found

    play(tmp_path, script)
