"""Pins, links and map entries that somebody takes away, and maps that are full."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from agent.admin.view import PodState
from agent.capture import links, pins
from agent.capture.guard import is_attached
from bpf.layout import MAPS, pack_ip
from mesh.errors import KernelError
from tests.lab import Node, Pod, eventually
from tests.netns.faults.world import World, agent_of, ask, frozen, opened_map, serve

pytestmark = pytest.mark.root

REPAIR_S = 5.0


@pytest.fixture(autouse=True)
def healthy_afterwards(world: World) -> Iterator[None]:
    yield
    world.check_served()


@pytest.fixture(scope="module")
def stranger(world: World) -> Pod:
    """A pod outside the mesh, on another node than `far`."""
    return world.a.pod("stranger", namespace="outside")


def fsck(node: Node) -> list[str]:
    found = node.meshnode("bpf", "fsck")
    return found.stdout.splitlines()


@contextmanager
def filled(node: Node, name: str) -> Iterator[None]:
    """A map without room for another entry."""
    spec = next(spec for spec in MAPS if spec.name == name)
    with opened_map(node, name) as table:
        before = set(table.keys())
        number = 0
        try:
            while True:
                number += 1
                table.update(number.to_bytes(spec.key_size, "big"), bytes(spec.value_size))
        except KernelError:
            assert number > 1
        try:
            yield
        finally:
            for key in range(1, number):
                raw = key.to_bytes(spec.key_size, "big")
                if raw not in before:
                    table.delete(raw)


def test_an_empty_listener_slot_lets_nothing_in(world: World, stranger: Pod) -> None:
    key = pack_ip(ipaddress.ip_address(world.far.address4))
    with opened_map(world.b, "mn_listener") as listeners:
        with frozen(agent_of(world.b).pid):
            assert listeners.delete(key)
            assert any("has no listener" in message for message in fsck(world.b))
            asked = ask(stranger, world.far.address4, "hello")
            assert asked.failed_fast, asked
            assert world.ask(world.far.address4).end == "ok"  # HBONE needs no steering
        eventually(lambda: listeners.lookup(key), REPAIR_S, "the listener is back")
    assert ask(stranger, world.far.address4, "hello").failed_fast


def test_a_captured_pod_that_is_deleted_from_the_map_comes_back(world: World) -> None:
    with opened_map(world.a, "mn_enrolled") as enrolled:
        before = set(enrolled.keys())
        for key in before:
            enrolled.delete(key)
        eventually(lambda: set(enrolled.keys()) == before, REPAIR_S, "all are captured again")


@pytest.mark.parametrize("what", ["links", "everything"])
def test_removed_pins_detach_nothing_and_come_back(world: World, what: str) -> None:
    directory = world.a.paths.pin_root if what == "everything" else pins.links_dir(world.a.paths)
    before = {path.name for path in directory.rglob("*")}

    def attack(secret: str) -> None:
        with frozen(agent_of(world.a).pid):
            shutil.rmtree(directory)
            assert world.ask(world.far.address4, secret).end == "ok"
            assert world.a.meshnode("bpf", "fsck").status != 0
        # Still captured and still encrypted: proved by the wire.
        eventually(
            lambda: {path.name for path in directory.rglob("*")} == before,
            REPAIR_S,
            "all pins are back",
        )
        assert world.ask(world.far.address4, secret).end == "ok"

    world.check_never_plain(attack)
    assert world.a.meshnode("bpf", "fsck").check()
    assert "was gone: put back" in agent_of(world.a).log_tail(400)


@pytest.mark.parametrize("name", ["mn_connect4", "mn_sockops", "mn_peer4"])
def test_a_link_detached_by_force_is_attached_again(world: World, name: str) -> None:
    paths = world.a.paths
    assert links.detach(pins.links_dir(paths) / name)
    eventually(lambda: is_attached(paths, name), REPAIR_S, f"{name} is attached again")
    world.check_never_plain(lambda secret: _is_served(world, secret))


def test_inbound_steering_detached_by_force_is_attached_again(world: World) -> None:
    paths = world.b.paths
    (cookie,) = links.attached_lookups(paths)
    assert links.detach_lookup(paths, cookie)
    name = f"{links.LOOKUP_PREFIX}{cookie}"
    eventually(lambda: is_attached(paths, name), REPAIR_S, f"{name} is attached again")


def _is_served(world: World, secret: str, server: Pod | None = None) -> None:
    assert world.ask((server or world.far).address4, secret).end == "ok"


def test_a_full_workload_map_sends_the_unknown_through_ztunnel(world: World) -> None:
    with ExitStack() as stack:
        stack.enter_context(filled(world.a, "mn_workload"))
        late = world.b.pod("late")
        serve(late)
        stack.callback(world.lab.delete, "pod-default-late")
        world.lab.settle()
        world.check_never_plain(lambda secret: _is_served(world, secret, late))

    def tunnelled() -> bool:
        return any(
            str(record["dst.addr"]).startswith(late.address4) and record["path"] == "hbone"
            for record in agent_of(world.a).access_log()
        )

    eventually(tunnelled, what="its connection is told of")


def test_a_full_map_of_pods_is_told(world: World) -> None:
    with ExitStack() as stack:
        stack.enter_context(filled(world.a, "mn_enrolled"))
        extra = world.a.pod("extra")
        stack.callback(world.lab.delete, "pod-default-extra")

        def told() -> bool:
            status = agent_of(world.a).status()
            assert status is not None
            states = {pod.name: (pod.state, pod.reason) for pod in status.pods}
            state, reason = states.get("extra", (PodState.PENDING, ""))
            assert state is PodState.FAILED, states
            return "full" in reason

        eventually(told, 30.0, "the pod failed, because the map is full")
        # Not captured: it is a stranger to the others, whom STRICT refuses.
        assert ask(extra, world.far.address4, "hello").failed_fast


@pytest.mark.parametrize("name", ["mn_verdict", "mn_flow"])
def test_a_full_map_on_the_direct_path(world: World, name: str) -> None:
    with filled(world.a, name):
        asked = world.ask(world.near.address4)
    assert asked.end == "ok" or asked.failed_fast, asked


def test_a_listener_that_is_destroyed_inside_the_pod_listens_again(world: World) -> None:
    server = world.near
    shut = server.run(["ss", "-K", "--tcp", "state", "listening", "sport", "=", ":15006"])
    assert ":15006" in shut.stdout, f"nothing was destroyed: {shut}"

    def listens() -> bool:
        return ":15006" in server.run(["ss", "-Htln"]).stdout

    eventually(listens, 30.0, "the plaintext listener is back")
