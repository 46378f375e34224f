"""What goes wrong between a watcher and an API server, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mesh.model.snapshot import Severity
from mesh.sources.kubernetes.resources import RESOURCES
from mesh.sources.kubernetes.watcher import WatchSettings
from mesh.sources.objects import PodObject
from tests.kube.watching import PODS, QUICK, TIMEOUT_S, Stage, play, pod
from tests.support.kube_api import KubeApiServer

POLICIES = tuple(r for r in RESOURCES if r.kind == "AuthorizationPolicy")


def test_all_pages_come_before_the_first_set() -> None:
    async def read(on: Stage) -> None:
        found = await anext(on.changes)
        assert [item.name for item in found.objects] == ["p0", "p1", "p2", "p3", "p4"]
        assert on.server.asked("limit=2") == 3
        assert on.server.asked("continue=") == 2

    play(read, *(pod(f"p{number}", f"10.0.0.{number + 1}") for number in range(5)))


def test_silence_lasts_until_the_server_speaks_again() -> None:
    async def read(on: Stage) -> None:
        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(30):
                while not condition():  # noqa: ASYNC110  (time passes without an event)
                    await asyncio.sleep(0.02)

        silence_s = on.source.silence_s
        await anext(on.changes)
        await on.server.wait_watched(1)
        on.server.faults.down = True
        await on.server.drop_watches()
        begin = silence_s()
        await until(lambda: silence_s() > begin + 0.3)
        silent_s = silence_s()
        on.server.faults.down = False
        await until(lambda: silence_s() < silent_s)
        # A bookmark is a word, too.
        await on.server.wait_watched(1)
        await until(lambda: silence_s() > 0.1)
        before = silence_s()
        await on.server.bookmark()
        await until(lambda: silence_s() < before)

    play(read, pod("a", "10.0.0.1"))


def test_a_list_that_expires_between_its_pages_is_read_in_one() -> None:
    async def read(on: Stage) -> None:
        assert len((await anext(on.changes)).objects) == 5
        assert on.server.asked("continue=") == 1

    server = KubeApiServer()
    server.faults.forget_pages = True
    play(read, *(pod(f"p{n}", f"10.0.0.{n + 1}") for n in range(5)), server=server)


def test_a_bookmark_saves_the_list_after_a_lost_watch() -> None:
    async def lose(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        # Other kinds move the counter on, then the history before it is cut off.
        on.server.store.version += 50
        await on.server.bookmark()
        await on.server.apply(pod("b", "10.0.0.2"))
        await on.names("a", "b")
        on.server.store.collection("pods").oldest = on.server.store.version - 1
        await on.server.drop_watches()
        await on.server.apply(pod("c", "10.0.0.3"))
        await on.names("a", "b", "c")
        assert on.server.asked("limit=") == 1
        assert on.server.asked("watch=1") >= 2

    play(lose, pod("a"))


@pytest.mark.parametrize("way", ["at the start of a watch", "inside a watch"])
def test_after_410_everything_is_listed_again_and_deletions_are_seen(way: str) -> None:
    async def lose(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        if way == "inside a watch":
            on.server.faults.watch_errors.append(410)
        on.server.store.delete("pods", ("shop", "b"))
        on.server.store.create("pods", pod("c", "10.0.0.3"))
        on.server.store.forget_history()
        if way == "inside a watch":
            on.server.store.collection("pods").oldest = 0
            await on.server.publish()
        else:
            await on.server.drop_watches()
        await on.names("a", "c")
        assert on.server.asked("limit=") == 2

    play(lose, pod("a"), pod("b", "10.0.0.2"))


def test_duplicates_and_late_events_change_nothing() -> None:
    async def repeat(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        on.server.faults.repeat_events = 2
        await on.server.apply(pod("b", "10.0.0.2"))
        await on.names("a", "b")
        await on.server.delete(pod("b"))
        await on.names("a")
        # A replica that lags behind tells once more what was.
        collection = on.server.store.collection("pods")
        late = [event for event in collection.history if b'"b"' in event.raw]
        assert [event.type for event in late] == ["ADDED", "DELETED"]
        collection.history.extend(
            type(event)(on.server.store.version + 1, event.type, event.raw) for event in late[:1]
        )
        on.server.store.version += 2
        await on.server.publish()
        await on.server.apply(pod("c", "10.0.0.3"))
        found = await on.until(lambda objects: len(objects.objects) > 1)
        assert [item.name for item in found.objects] == ["a", "c"]

    play(repeat, pod("a"))


def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    async def cut(on: Stage) -> None:
        await anext(on.changes)
        for number in range(3):
            await on.server.wait_watched(1)
            await on.server.drop_watches()
            await on.server.apply(pod(f"p{number}", f"10.0.1.{number + 1}"))
        await on.names("a", "p0", "p1", "p2")
        assert on.server.asked("limit=") == 1

    play(cut, pod("a"))


def test_a_server_that_is_away_takes_nothing_and_is_complained_about() -> None:
    async def leave(on: Stage) -> None:
        await anext(on.changes)
        on.server.faults.down = True
        await on.server.drop_watches()
        found = await on.until(lambda objects: bool(objects.problems))
        assert [item.name for item in found.objects] == ["a"]
        [problem] = found.problems
        assert problem.severity is Severity.WARNING
        assert problem.message.endswith("its last known state stays in force")
        on.server.faults.down = False
        await on.until(lambda objects: not objects.problems)
        await on.server.apply(pod("b", "10.0.0.2"))
        await on.names("a", "b")

    play(leave, pod("a"))


def test_too_many_requests_waits_as_long_as_the_server_says() -> None:
    async def wait(on: Stage) -> None:
        begin = asyncio.get_running_loop().time()
        await anext(on.changes)
        assert asyncio.get_running_loop().time() - begin >= 1.0

    server = KubeApiServer()
    server.faults.failures.append((429, 1.0))
    play(wait, pod("a"), server=server)


def test_nothing_is_said_before_every_kind_is_known() -> None:
    """A kind that exists and cannot be read may hold the policies that forbid."""

    async def wait(on: Stage) -> None:
        async def allow() -> None:
            async with asyncio.timeout(TIMEOUT_S):
                await on.server.wait_asked("/v1alpha1/authorizationpolicies", 3)
            assert on.server.asked("/api/v1/pods?watch") == 1
            said.append("allowed")
            on.server.faults.forbidden.clear()

        said: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(allow())
            found = await anext(on.changes)
            said.append("told")
        assert said == ["allowed", "told"]
        assert [item.name for item in found.objects] == ["a"]

    server = KubeApiServer()
    server.faults.forbidden.add("authorizationpolicies.meshnode.io")
    play(wait, pod("a"), resources=(*PODS, *POLICIES[:1]), server=server)


def test_a_kind_that_is_not_installed_is_a_warning_and_is_found_later() -> None:
    async def install(on: Stage) -> None:
        found = await anext(on.changes)
        [problem] = found.problems
        assert problem.subject == "AuthorizationPolicy"
        assert "is not installed: `kubectl apply -f installer/crds` adds it" in problem.message
        name = "authorizationpolicies.meshnode.io"
        on.server.store.serve(name, "AuthorizationPolicy", "meshnode.io/v1alpha1")
        on.server.store.create(
            name, {"metadata": {"name": "none", "namespace": "shop"}, "spec": {}}
        )
        found = await on.names("a", "none")
        assert found.problems == ()

    server = KubeApiServer()
    del server.store.collections["authorizationpolicies.meshnode.io"]
    # Istio's kind of the same name is absent too; nobody misses that.
    play(install, pod("a"), resources=(*PODS, *POLICIES), server=server)


def test_a_kind_that_vanishes_with_objects_in_it_stays_in_force() -> None:
    async def vanish(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        del on.server.store.collections["authorizationpolicies.meshnode.io"]
        await on.server.drop_watches()
        found = await on.until(lambda objects: bool(objects.problems))
        assert [item.name for item in found.objects] == ["none"]
        assert "its objects stay in force" in found.problems[0].message

    server = KubeApiServer()
    server.store.create(
        "authorizationpolicies.meshnode.io",
        {"metadata": {"name": "none", "namespace": "shop"}, "spec": {}},
    )
    play(vanish, resources=POLICIES[:1], server=server)


def test_an_older_version_of_a_kind_is_read_where_there_is_no_newer() -> None:
    async def read(on: Stage) -> None:
        found = await anext(on.changes)
        assert [item.subject for item in found.objects] == ["AuthorizationPolicy shop/old"]

    server = KubeApiServer()
    name = "authorizationpolicies.security.istio.io"
    server.store.serve(name, "AuthorizationPolicy", "security.istio.io/v1beta1")
    server.store.create(name, {"metadata": {"name": "old", "namespace": "shop"}, "spec": {}})
    play(read, resources=POLICIES[1:], server=server)


def test_a_list_older_than_what_is_known_is_not_believed_at_first() -> None:
    async def restore(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        store = on.server.store
        store.delete("pods", ("shop", "b"))
        store.version = 500
        store.collection("pods").oldest = 501
        on.server.faults.watch_errors.append(410)
        await on.server.drop_watches()
        await on.names("a")
        # Twice refused, then it is clear that the cluster's past was restored.
        assert on.server.asked("limit=") == 1 + QUICK.stale_lists + 1

    play(restore, pod("a"), pod("b", "10.0.0.2"), settings=WatchSettings(first_backoff_s=0.01))


def test_only_pods_of_the_own_node_have_their_uid_kept() -> None:
    async def ask(on: Stage) -> None:
        await anext(on.changes)
        assert on.source.pod_uid("shop", "a").startswith("00000000-")
        assert on.source.pod_uid("shop", "far") == ""
        assert on.source.pod_uid("shop", "never") == ""

    play(ask, pod("a"), pod("far", "10.0.0.2", node="two"))


def test_a_pod_made_anew_with_another_uid_is_a_change() -> None:
    async def remake(on: Stage) -> None:
        await anext(on.changes)
        before = on.source.pod_uid("shop", "a")
        await on.server.wait_watched(1)
        await on.server.delete(pod("a"))
        await on.server.apply(pod("a"))
        await on.until(lambda _: on.source.pod_uid("shop", "a") not in ("", before))

    play(remake, pod("a"))


def test_a_heartbeat_alone_is_no_change() -> None:
    async def beat(on: Stage) -> None:
        first = await anext(on.changes)
        await on.server.wait_watched(1)
        kept = first.objects[0]
        body = kept.body
        assert isinstance(body, PodObject)
        await on.server.apply({**pod("a"), "metadata": {"name": "a", "namespace": "shop"}})
        await on.server.apply(pod("b", "10.0.0.2"))
        found = await on.names("a", "b")
        assert found.objects[0] is kept

    play(beat, pod("a"))


def test_a_crowd_of_changes_is_one_set() -> None:
    async def crowd(on: Stage) -> None:
        await anext(on.changes)
        await on.server.wait_watched(1)
        for number in range(50):
            await on.server.apply(pod(f"p{number}", f"10.1.0.{number + 1}"))
        found = await anext(on.changes)
        assert len(found.objects) == 51

    play(crowd, pod("a"))


def test_a_pod_cannot_choose_the_namespace_that_is_entered() -> None:
    async def read(on: Stage) -> None:
        body = (await anext(on.changes)).objects[0].body
        assert isinstance(body, PodObject)
        assert dict(body.metadata.annotations) == {"meshnode.io/exclude-outbound-ports": "1"}

    manifest = {
        **pod("a"),
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "annotations": {
                "meshnode.io/netns": "/proc/1/ns/net",
                "meshnode.io/exclude-outbound-ports": "1",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
    }
    play(read, manifest)
