"""The second half of the story: policy, live revocation, a crash, and a clean exit."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

from agent.admin.codec import from_json
from agent.admin.question import AuthzAnswer
from tests.demo.narrator import Narrator
from tests.demo.stage import HTTP_PORT, SHOP, Stage, curl, deny, strict, url4, url6
from tests.lab import Pod, Process, eventually

CONNECTION_REFUSED = 7
"""curl's exit status."""

CUT_WITHIN_S = 5.0
TRAFFIC_LOOP = """
ok=0
trap 'echo "served $ok"; exit 0' TERM
while :; do
  for url in "$@"; do
    if curl -sS --max-time 10 -o /dev/null "$url"; then ok=$((ok + 1)); else echo "FAILED $url"; fi
  done
  [ "$ok" -lt 9 ] || [ "$warm" ] || { warm=yes; echo warm; }
done
"""


def strictness(tell: Narrator, stage: Stage) -> None:
    """PERMISSIVE lets plaintext in; STRICT does not."""
    tell.chapter("5. STRICT: no identity, no entrance")
    with tell.claim("before: the pod outside the mesh reaches orders in plaintext"):
        curl(stage.outsider, url4(stage.orders)).check()
    stage.lab.apply("strict", strict())
    with tell.claim("PeerAuthentication STRICT: its plaintext is refused, IPv4 and IPv6") as claim:
        for url in (url4(stage.orders), url6(stage.orders), url4(stage.web)):
            _eventually_refused(stage.outsider, url)
        record = _denial(stage, "orders", "STRICT", "PeerAuthentication")
        claim.detail = str(record.get("policy") or record.get("error"))
    with tell.claim("enrolled pods go on: direct and tunnelled are both authenticated"):
        curl(stage.client, url4(stage.web)).check()
        curl(stage.client, url4(stage.orders)).check()


def denials(tell: Narrator, stage: Stage) -> None:
    """A denial is immediate and names its rule, on both paths."""
    tell.chapter("6. A denial, and which rule it was")
    for dst, node, how in (("orders", stage.b, "across nodes"), ("web", stage.a, "same node")):
        server = stage.orders if dst == "orders" else stage.web
        src = stage.web if dst == "orders" else stage.client
        name = f"no-{src.name}-to-{server.name}"
        stage.lab.apply(name, deny(name, src=src.name, dst=server.name))
        with tell.claim(f"{how}: {src.name} is denied the way to {server.name}"):
            _eventually_refused(src, url4(server))
            if how == "same node":
                status = curl(src, url4(server)).status
                assert status == CONNECTION_REFUSED, f"curl ended with {status}"
        with tell.claim("the access log names the policy and the rule") as claim:
            claim.detail = str(_denial(stage, server.name, name)["policy"])
        with tell.claim("`meshnode authz check` names the same") as claim:
            question = (f"{SHOP}/{src.name}", f"{SHOP}/{server.name}", str(HTTP_PORT))
            result = node.meshnode("authz", "check", *question, "-o", "json")
            answer = from_json(result.stdout.encode(), AuthzAnswer)
            assert not answer.allowed, f"{answer}"
            assert answer.decided_by is not None, f"{answer}"
            assert name in str(answer.decided_by), f"{answer.decided_by}"
            claim.detail = str(answer.decided_by)
        stage.lab.delete(name)
        with tell.claim("the policy is removed: it works again"):
            _eventually_served(src, server)


def revocation(tell: Narrator, stage: Stage) -> None:
    """A new policy ends the connections it forbids."""
    tell.chapter("7. A policy change cuts live connections, on both paths")
    for server, how in ((stage.orders, "tunnelled"), (stage.web, "direct")):
        name = f"cut-{server.name}"
        with tell.claim(f"a {how} download is cut when a policy forbids it") as claim:
            argv = ["curl", "-sS", "--limit-rate", "4M", "-o", "/dev/null", url4(server, "/big")]
            download = stage.client.start(argv)
            _wait_moving(stage, server)
            assert download.running, f"the download ended by itself:\n{download.output}"
            started = time.monotonic()
            stage.lab.apply(name, deny(name, src=stage.client.name, dst=server.name))
            try:
                result = download.wait(CUT_WITHIN_S)
            finally:
                download.kill()
                stage.lab.delete(name)
            assert result.status != 0, "the download finished"
            claim.detail = f"after {time.monotonic() - started:.1f} s: {result.stdout.strip()}"
        with tell.claim("and allowed again after the policy is gone"):
            _eventually_served(stage.client, server)


def crash(tell: Narrator, stage: Stage) -> None:
    """kill -9 under traffic: nothing is refused."""
    tell.chapter("8. kill -9 of an agent under traffic")
    for node, name in ((stage.a, "the client's"), (stage.b, "the server's")):
        with tell.claim(f"{name} agent is killed and started again; nothing is refused") as claim:
            urls = [url4(stage.web), url4(stage.orders), url6(stage.orders)]
            traffic = stage.client.start(["sh", "-c", TRAFFIC_LOOP, "traffic", *urls])
            traffic.wait_output("warm")
            agent = node.running_agent
            assert agent is not None
            agent.kill()
            gap = time.monotonic()
            stage.start_agent(node)
            gap = time.monotonic() - gap
            served = _end_traffic(traffic)
            claim.detail = f"{served} requests served, none failed; agent away for {gap:.1f} s"


def farewell(tell: Narrator, stage: Stage) -> None:
    """Uninstall leaves nothing and the applications keep working."""
    tell.chapter("10. Uninstall")
    with tell.claim("`meshnode uninstall` removes programs, links, maps, files and processes"):
        for node in (stage.a, stage.b):
            if node.running_agent is not None:
                node.running_agent.stop()
            node.meshnode("uninstall", "--yes").check()
            for path in (node.paths.run_dir, node.paths.pin_root):
                assert not path.exists(), f"{path} is still there"
    with (
        tell.claim("the applications talk on, as if it had never been there"),
        stage.lab.capture() as capture,
    ):
        curl(stage.client, url4(stage.orders, "/plain-again")).check()
        curl(stage.client, url4(stage.web)).check()
        capture.fence()
        assert capture.contains(b"plain-again"), "traffic is still captured"


def _eventually_refused(src: Pod, url: str) -> None:
    eventually(lambda: curl(src, url).status != 0, 30.0, f"{src.name} is refused at {url}")


def _eventually_served(src: Pod, dst: Pod) -> None:
    eventually(lambda: curl(src, url4(dst)).status == 0, 30.0, f"{src.name} reaches {dst.name}")


def _denial(stage: Stage, dst: str, *words: str) -> Mapping[str, object]:
    """The newest denial of a connection to `dst` that mentions one of the words."""

    def find() -> Mapping[str, object] | None:
        for record in reversed(stage.access_records()):
            text = f"{record.get('policy', '')} {record.get('error', '')}"
            denied = record.get("flag") == "DENY" and record.get("dst.workload") == dst
            if denied and any(word.lower() in text.lower() for word in words):
                return record
        return None

    found = eventually(find, 30.0, f"the access log tells of a denial towards {dst}: {words}")
    assert found is not None
    return found


def _wait_moving(stage: Stage, server: Pod) -> None:
    """Wait until nginx sends: its write queue towards the client is a socket in the pod."""

    def established() -> bool:
        argv = ["ss", "-Htn", "state", "established", "sport", "=", f":{HTTP_PORT}"]
        return bool(server.run(argv).check().stdout.strip())

    eventually(established, 30.0, f"a download from {server.name} is under way")


def _end_traffic(traffic: Process) -> int:
    traffic.signal(signal.SIGTERM)
    output = traffic.wait().stdout
    lines = [line for line in output.splitlines() if line != "warm"]
    served = [line.split()[1] for line in lines if line.startswith("served ")]
    failed = [line for line in lines if not line.startswith("served ")]
    assert not failed, "\n".join(failed[:10])
    assert served, output
    assert int(served[0]) > 0, output
    return int(served[0])
