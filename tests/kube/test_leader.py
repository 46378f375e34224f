"""What the leading controller makes of Gateways, routes, policies and namespaces."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TypedDict

from controller.kubernetes.admission import configuration
from tests.kube.led import GATEWAY_API, NAMESPACE, SERVICE, Stage, gateway, play, route


class Parent(TypedDict):
    """An entry of a route's status.parents."""

    controllerName: str
    parentRef: dict[str, object]
    conditions: list[dict[str, object]]


def test_a_gateway_becomes_a_waypoint_and_takes_it_with_it() -> None:
    async def script(on: Stage) -> None:
        await on.until(lambda: on.get("poddisruptionbudgets.policy") is not None)
        for collection in ("serviceaccounts", "services", "deployments.apps"):
            found = on.get(collection)
            assert found is not None
            meta = found["metadata"]
            assert isinstance(meta, dict)
            [owner] = meta["ownerReferences"]
            assert (owner["kind"], owner["name"]) == ("Gateway", "wp")
            assert meta["labels"]["gateway.networking.k8s.io/gateway-name"] == "wp"
            assert meta["labels"]["meshnode.io/waypoint-for"] == "service"
        binding = on.get("clusterrolebindings.rbac.authorization.k8s.io", "meshnode-waypoint", "")
        assert binding is not None
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "namespace": "shop", "name": "wp"}
        ]
        await on.server.delete(gateway())
        await on.until(lambda: binding_is_empty(on))
        for collection in ("serviceaccounts", "services", "deployments.apps"):
            assert on.get(collection) is None

    def binding_is_empty(on: Stage) -> bool:
        found = on.get("clusterrolebindings.rbac.authorization.k8s.io", "meshnode-waypoint", "")
        return found is not None and found["subjects"] == []

    play(script, gateway())


def test_what_others_set_stays_and_what_we_set_comes_back() -> None:
    async def script(on: Stage) -> None:
        name, key = "deployments.apps", ("shop", "wp")
        await on.until(lambda: on.get(name) is not None)
        found = on.server.store.get(name, key)
        meta = found["metadata"]
        assert isinstance(meta, dict)
        meta["annotations"] = {"ops": "theirs"}
        on.server.store.update(name, key, found, status=False)
        await on.server.apply(gateway(replicas="3"))
        await on.until(lambda: replicas(on) == 3)
        assert annotations(on) == {"ops": "theirs"}
        await on.server.apply(gateway(replicas="2", max_replicas="5"))
        await on.until(lambda: on.get("horizontalpodautoscalers.autoscaling") is not None)
        # The number is the autoscaler's now: we do not apply it any more.
        assert replicas(on) is None
        await on.server.apply(gateway(replicas="2"))
        await on.until(lambda: on.get("horizontalpodautoscalers.autoscaling") is None)

    def replicas(on: Stage) -> object:
        spec = (on.get("deployments.apps") or {}).get("spec")
        return spec.get("replicas") if isinstance(spec, dict) else None

    def annotations(on: Stage) -> object:
        meta = (on.get("deployments.apps") or {}).get("metadata")
        return meta.get("annotations") if isinstance(meta, dict) else None

    play(script, gateway())


def test_a_gateway_that_changes_its_class_loses_its_waypoint() -> None:
    async def script(on: Stage) -> None:
        await on.until(lambda: on.get("poddisruptionbudgets.policy") is not None)
        await on.server.apply(gateway(class_name="other"))
        await on.until(lambda: on.get("serviceaccounts") is None)
        assert on.get("deployments.apps") is None

    play(script, gateway())


def test_a_deployment_of_somebody_else_is_left_alone() -> None:
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "wp", "namespace": "shop"},
        "spec": {"replicas": 7},
    }

    async def script(on: Stage) -> None:
        await on.until(lambda: on.server.asked("GET /apis/apps/v1/namespaces/shop/deployments") > 1)
        found = on.get("deployments.apps")
        assert found is not None
        assert found["spec"] == {"replicas": 7}

    play(script, theirs, gateway())


def test_statuses_of_gateways_classes_and_wrong_wishes() -> None:
    async def script(on: Stage) -> None:
        gateways = f"gateways.{GATEWAY_API}"
        await on.until(lambda: on.condition(gateways, "wp", "Programmed") != {})
        assert on.condition(gateways, "wp", "Accepted")["status"] == "True"
        assert on.condition(gateways, "wp", "Programmed")["reason"] == "Pending"
        await on.server.apply(ready_pod())
        await on.until(lambda: on.condition(gateways, "wp", "Programmed")["status"] == "True")
        await on.server.apply(gateway(replicas="many"))
        await on.until(lambda: on.condition(gateways, "wp", "Accepted")["status"] == "False")
        accepted = on.condition(gateways, "wp", "Accepted")
        assert accepted["reason"] == "InvalidParameters"
        assert "'many' is not a number" in str(accepted["message"])
        made = on.get(f"gatewayclasses.{GATEWAY_API}", "meshnode-waypoint", "") or {}
        status = made["status"]
        assert isinstance(status, dict)
        features = [item["name"] for item in status["supportedFeatures"]]
        assert features == sorted(features)
        assert {"Mesh", "HTTPRoute", "GRPCRoute"} <= set(features)

    play(script, gateway())


def test_a_listener_counts_the_routes_that_it_acts_on() -> None:
    def attached(on: Stage) -> object:
        status = (on.get(f"gateways.{GATEWAY_API}") or {}).get("status")
        listeners = status.get("listeners") if isinstance(status, dict) else None
        return listeners[0]["attachedRoutes"] if listeners else None

    async def script(on: Stage) -> None:
        await on.until(lambda: attached(on) == 0)
        behind = {"meshnode.io/use-waypoint": "wp"}
        meta = {"name": "api", "namespace": "shop", "labels": behind}
        await on.server.apply({**SERVICE, "metadata": meta})
        await on.until(lambda: attached(on) == 1)
        await on.server.delete(route())
        await on.until(lambda: attached(on) == 0)

    play(script, gateway(), SERVICE, route())


def ready_pod() -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "wp-1",
            "namespace": "shop",
            "labels": {"gateway.networking.k8s.io/gateway-name": "wp"},
        },
        "status": {"podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_route_status_is_written_once_and_entries_of_others_stay() -> None:
    theirs: Parent = {
        "parentRef": {"group": GATEWAY_API, "kind": "Gateway", "name": "edge"},
        "controllerName": "example.com/edge",
        "conditions": [],
    }

    async def script(on: Stage) -> None:
        await on.until(lambda: len(parents(on)) == 2)
        first, ours = parents(on)
        assert first == theirs
        assert ours["controllerName"] == "meshnode.io/waypoint-controller"
        assert ours["parentRef"]["name"] == "api"
        words = {item["type"]: (item["status"], item["reason"]) for item in ours["conditions"]}
        assert words == {
            "Accepted": ("True", "Accepted"),
            "ResolvedRefs": ("True", "ResolvedRefs"),
        }
        written = on.server.asked("PUT /apis/gateway.networking.k8s.io/v1/namespaces/shop/httpr")
        # Something else changes: the route's status is right, so nothing is written.
        await on.server.apply({**NAMESPACE, "metadata": {"name": "other"}})
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root", "other") is not None)
        await on.server.delete(SERVICE)
        await on.until(lambda: reason(on) == "NoMatchingParent")
        assert on.server.asked("PUT /apis/gateway.networking.k8s.io/v1/namespaces/shop/httpr") == (
            written + 1
        )

    def parents(on: Stage) -> list[Parent]:
        status = (on.get(f"httproutes.{GATEWAY_API}", "r") or {}).get("status")
        return status["parents"] if isinstance(status, dict) else []

    def reason(on: Stage) -> object:
        conditions = parents(on)[-1]["conditions"]
        return next(c["reason"] for c in conditions if c["type"] == "Accepted")

    play(script, SERVICE, route(parents=[theirs]))


def test_policies_say_what_is_wrong_with_them() -> None:
    def policy(name: str, spec: object, **status: object) -> Mapping[str, object]:
        made = {
            "apiVersion": "meshnode.io/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec,
        }
        return {**made, "status": status} if status else made

    async def script(on: Stage) -> None:
        policies = "authorizationpolicies.meshnode.io"
        for name, accepted, programmed in (
            ("good", "Accepted", "Programmed"),
            ("broken", "Invalid", "Invalid"),
            ("lost", "TargetNotFound", "Invalid"),
            ("weak", "Accepted", "NoWaypoint"),
        ):
            await on.until(
                lambda name=name: on.condition(policies, name, "Programmed") != {}  # type: ignore[misc]
            )
            assert on.condition(policies, name, "Accepted")["reason"] == accepted
            assert on.condition(policies, name, "Programmed")["reason"] == programmed
        assert on.condition(policies, "good", "Theirs") == {"type": "Theirs", "status": "True"}
        await on.server.apply(policy("broken", {"rules": [{}]}))
        await on.until(lambda: on.condition(policies, "broken", "Programmed")["status"] == "True")
        assert on.condition(policies, "broken", "Accepted")["observedGeneration"] == 2

    target = {"group": "", "kind": "Service"}
    play(
        script,
        SERVICE,
        policy("good", {"rules": [{}]}, conditions=[{"type": "Theirs", "status": "True"}]),
        policy("broken", {"rule": [{}]}),
        policy("lost", {"targetRefs": [{**target, "name": "no"}], "rules": [{}]}),
        policy("weak", {"targetRefs": [{**target, "name": "api"}], "rules": [{}]}),
    )


def test_istios_policies_get_conditions_of_ours_beside_istios() -> None:
    istio = {"type": "Reconciled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    policy: dict[str, object] = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"rules": [{}]},
        "status": {"conditions": [istio], "validationMessages": []},
    }
    policies = "authorizationpolicies.security.istio.io"
    puts = "PUT /apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/p/status"

    async def script(on: Stage) -> None:
        await on.until(lambda: on.condition(policies, "p", "meshnode.io/Programmed") != {})
        assert on.condition(policies, "p", "meshnode.io/Accepted")["status"] == "True"
        assert on.condition(policies, "p", "Reconciled") == istio
        status = (on.get(policies, "p") or {})["status"]
        assert isinstance(status, dict)
        assert status["validationMessages"] == []
        # Istio writes its own conditions and none of ours: that is no reason to write again.
        await on.server.apply({**policy, "status": {"conditions": [istio]}})
        await on.server.apply({**NAMESPACE, "metadata": {"name": "other"}})
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root", "other") is not None)
        assert on.server.asked(puts) == 1
        # The words change: now it is.
        target = {"group": "", "kind": "Service", "name": "no"}
        await on.server.apply({**policy, "spec": {"rules": [{}], "targetRefs": [target]}})
        await on.until(lambda: on.condition(policies, "p", "meshnode.io/Accepted") != {})
        found = on.condition(policies, "p", "meshnode.io/Accepted")
        assert found["reason"] == "TargetNotFound"
        assert on.condition(policies, "p", "Reconciled") == istio

    play(script, policy)


def test_the_webhooks_configuration_follows_its_root() -> None:
    now = {"root": b"first root"}
    name = "validatingwebhookconfigurations.admissionregistration.k8s.io"

    def bundle(on: Stage) -> bytes:
        hooks = (on.get(name, "meshnode", "") or {}).get("webhooks")
        if not isinstance(hooks, list):
            return b""
        return base64.b64decode(hooks[0]["clientConfig"]["caBundle"])

    async def script(on: Stage) -> None:
        on.server.store.serve(
            name, "ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1"
        )
        await on.until(lambda: bundle(on) == b"first root")
        now["root"] = b"second root"
        await on.until(lambda: bundle(on) == b"second root")
        asked = on.server.asked("validatingwebhookconfigurations")
        await on.server.apply({**NAMESPACE, "metadata": {"name": "other"}})
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root", "other") is not None)
        assert on.server.asked("validatingwebhookconfigurations") == asked

    play(script, admission=lambda: configuration("system", now["root"]))


def test_who_does_not_lead_at_the_instant_of_a_write_writes_nothing() -> None:
    lease = {"is_ours": True, "asked": 0}

    def may_write() -> bool:
        lease["asked"] += 1
        return bool(lease["is_ours"])

    def writes(on: Stage) -> list[str]:
        return [line for line in on.server.requests if not line.startswith("GET")]

    async def script(on: Stage) -> None:
        await on.until(lambda: on.get("poddisruptionbudgets.policy") is not None)
        await on.until(lambda: on.condition(f"gateways.{GATEWAY_API}", "wp", "Accepted") != {})
        # Its lease has run out, and the task that works has not noticed yet.
        lease["is_ours"] = False
        before = writes(on)
        await on.server.apply(gateway(replicas="3"), {**NAMESPACE, "metadata": {"name": "new"}})
        asked = lease["asked"]
        await on.until(lambda: lease["asked"] > asked + 5)
        assert writes(on) == before
        lease["is_ours"] = True
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root", "new") is not None)

    play(script, gateway(), may_write=may_write)


def test_every_namespace_has_the_roots() -> None:
    async def script(on: Stage) -> None:
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root") is not None)
        found = on.get("configmaps", "meshnode-ca-root") or {}
        assert found["data"] == {"root.pem": "server root", "bundle.pem": "roots"}
        await on.server.apply({**NAMESPACE, "metadata": {"name": "new"}})
        await on.until(lambda: on.get("configmaps", "meshnode-ca-root", "new") is not None)

    play(script)
