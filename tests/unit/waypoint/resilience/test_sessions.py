"""Sessions and a canary: which endpoint a client comes back to, and what holds for it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.waypoint.scene import objects, scene
from tests.unit.waypoint.virtual import play

SESSION_ROUTE = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - backendRefs: [{name: api, port: 80}]
    sessionPersistence: {sessionName: sid}
"""


@pytest.mark.parametrize("by_route", [True, False])
def test_a_session_leads_back_to_its_endpoint(by_route: bool) -> None:
    async def main() -> None:
        policy = "" if by_route else "sessionPersistence: {sessionName: sid}"
        async with scene(objects(policy, more=SESSION_ROUTE if by_route else "")) as here:
            first = await here.send()
            cookie = first.headers["set-cookie"].split(";")[0]
            assert cookie.startswith("sid=")
            home = here.seen[0].server
            assert await here.send_many(20, {"cookie": cookie}) == Counter({home: 20})
            assert len(await here.send_many(40)) == 3

    play(main())


def test_a_session_in_a_header_moves_when_its_endpoint_is_gone() -> None:
    async def main() -> None:
        policy = "sessionPersistence: {type: Header, sessionName: X-Session}"
        async with scene(objects(policy)) as here:
            token = (await here.send()).headers["x-session"]
            home = here.seen[0].server
            assert await here.send_many(9, {"x-session": token}) == Counter({home: 9})
            here.follow(objects(policy, servers=home - 1 or 1) if home > 1 else here.snapshot)
            again = await here.send(fields={"x-session": token})
            if home > 1:
                assert again.headers["x-session"] != token
                assert here.seen[-1].server != home

    play(main())


CANARY = """\
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {version: v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: meshnode.io/v1alpha1
kind: Workload
metadata: {name: canary, namespace: shop, labels: {version: v2}}
spec: {node: node-9, addresses: [10.1.0.9]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - backendRefs: [{name: api, port: 80, weight: 90}, {name: canary, port: 80, weight: 10}]
    sessionPersistence: {sessionName: sid}
"""


def test_a_session_on_the_canary_stays_there_whatever_the_weights() -> None:
    async def main() -> None:
        async with scene(objects(more=CANARY)) as here:
            cookies: dict[int, str] = {}
            for _ in range(100):
                reply = await here.send()
                cookies[here.seen[-1].server] = reply.headers["set-cookie"].split(";")[0]
            assert set(cookies) == {1, 2, 3, 9}
            for server, cookie in cookies.items():
                assert await here.send_many(20, {"cookie": cookie}) == Counter({server: 20})
            here.follow(objects(more=CANARY.replace("weight: 10", "weight: 0")))
            assert (await here.send_many(20, {"cookie": cookies[9]}))[9] == 0

    play(main())


def test_a_limit_on_the_service_that_was_dialled_holds_for_what_routes_send_elsewhere() -> None:
    async def main() -> None:
        policy = "rateLimits: [{requests: 5, per: 1h}]"
        async with scene(objects(policy, more=CANARY)) as here:
            statuses = Counter([(await here.send()).status for _ in range(20)])
            assert statuses == Counter({429: 15, 200: 5})

    play(main())
