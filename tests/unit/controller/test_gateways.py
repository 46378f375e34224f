"""Status of Gateways' listeners, and how many routes are attached."""

from __future__ import annotations

from controller.status.desired import ObjectName, route_status
from controller.status.gateways import GatewayStatus, attached_routes, gateway_status
from controller.waypoints.request import waypoint_requests
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce

CLASS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: meshnode-waypoint}
spec: {controllerName: meshnode.io/waypoint-controller}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
"""
GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, generation: 3}
spec:
  gatewayClassName: meshnode-waypoint
  listeners: LISTENERS
---
"""
MESH = "{name: mesh, port: 15008, protocol: HBONE}"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: shop, labels: {meshnode.io/use-waypoint: WAYPOINT}}
spec: {ports: [{port: 80}]}
---
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME, namespace: shop}
spec: {parentRefs: [PARENTS], rules: [{}]}
---
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
status: {podIP: 10.0.0.9, conditions: [{type: Ready, status: "True"}]}
---
"""


def service(name: str, waypoint: str = "wp") -> str:
    return SERVICE.replace("NAME", name).replace("WAYPOINT", waypoint)


def route(name: str, *services: str) -> str:
    parents = ", ".join(f"{{group: '', kind: Service, name: {item}}}" for item in services)
    return ROUTE.replace("NAME", name).replace("PARENTS", parents)


def status_of(text: str, listeners: str = f"[{MESH}]") -> GatewayStatus:
    state = read_text("f.yaml", (CLASS + GATEWAY + text).replace("LISTENERS", listeners).encode(),
                      FileState())  # fmt: skip
    assert state.problems == ()
    snapshot = reduce(ObjectSet(objects=state.objects), None)
    [request] = waypoint_requests(state.objects)
    attached = attached_routes(route_status(snapshot), snapshot)
    return gateway_status(request, snapshot, attached.get("shop/wp", 0))


def words(status: GatewayStatus, number: int = 0) -> dict[str, tuple[bool, str]]:
    return {c.type: (c.status, c.reason) for c in status.listeners[number].conditions}


def test_routes_of_services_behind_it_are_attached() -> None:
    text = (
        service("a") + service("b") + service("far", "none")
        + route("both", "a", "b") + route("one", "b") + route("elsewhere", "far")
        + route("nowhere", "no-such-service")
    )  # fmt: skip
    status = status_of(text)
    [listener] = status.listeners
    assert listener.attached_routes == 2
    assert listener.kinds == ("GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute")
    assert {c.observed_generation for c in (*status.conditions, *listener.conditions)} == {3}


def test_a_listener_is_programmed_once_a_pod_is_ready() -> None:
    assert words(status_of(""))["Programmed"] == (False, "Pending")
    assert words(status_of(POD)) == {
        "Accepted": (True, "Accepted"),
        "Programmed": (True, "Programmed"),
        "ResolvedRefs": (True, "ResolvedRefs"),
        "Conflicted": (False, "NoConflicts"),
    }


def test_a_second_listener_of_the_port_conflicts() -> None:
    other = "{name: other, port: 15008, protocol: HTTP}"
    twin = "{name: twin, port: 15008, protocol: HBONE}"
    status = status_of(POD + service("a") + route("r", "a"), f"[{other}, {MESH}, {twin}]")
    assert [item.attached_routes for item in status.listeners] == [0, 1, 0]
    assert words(status, 0)["Accepted"] == (False, "UnsupportedProtocol")
    assert words(status, 0)["Conflicted"] == (True, "ProtocolConflict")
    assert status.listeners[0].kinds == ()
    assert words(status, 1)["Conflicted"] == (False, "NoConflicts")
    assert words(status, 2) == {
        "Accepted": (False, "PortUnavailable"),
        "Programmed": (False, "Invalid"),
        "ResolvedRefs": (True, "ResolvedRefs"),
        "Conflicted": (True, "HostnameConflict"),
    }
    assert (status.conditions[0].status, status.conditions[0].reason) == (True, "ListenersNotValid")


def test_kinds_that_a_listener_names() -> None:
    kinds = "kinds: [{kind: HTTPRoute}, {kind: UDPRoute}]"
    status = status_of(
        "", f"[{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{{kinds}}}}}]"
    )
    assert status.listeners[0].kinds == ("HTTPRoute",)
    assert words(status)["ResolvedRefs"] == (False, "InvalidRouteKinds")


def test_without_a_listener_for_the_mesh_nothing_is_accepted() -> None:
    status = status_of(POD, "[{name: web, port: 80, protocol: HTTP}]")
    assert [c.status for c in status.conditions] == [False, False]
    assert words(status)["Accepted"] == (False, "UnsupportedProtocol")


def test_a_route_that_names_a_waypoint_as_its_parent_is_told() -> None:
    parent = "{group: gateway.networking.k8s.io, kind: Gateway, name: NAME}"
    text = ROUTE.replace(
        "PARENTS", f"{parent.replace('NAME', 'wp')}, {parent.replace('NAME', 'x')}"
    )
    state = read_text("f.yaml", text.replace("NAME", "r").encode(), FileState())
    snapshot = reduce(ObjectSet(objects=state.objects), None)
    name = ObjectName(kind="HTTPRoute", namespace="shop", name="r")
    [only] = route_status(snapshot, {"shop/wp"})[name].parents
    accepted = only.condition("Accepted")
    assert accepted is not None
    assert (only.parent.name, accepted.status) == ("wp", False)
    assert "attach to the Services behind it" in accepted.message
