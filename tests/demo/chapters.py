"""The first half of the story: enrolment, the paths traffic takes, and what the wire shows."""

from __future__ import annotations

import json
from collections import Counter

from agent.admin.view import Certificates, CertificateState, NodeStatus, PodState
from tests.demo.narrator import Narrator
from tests.demo.stage import (
    HTTP_PORT,
    IPERF_PORT,
    REDIS_PORT,
    SHOP,
    VIPS,
    Stage,
    curl,
    url4,
    url6,
)
from tests.lab import Pod, eventually

IPERF_SECONDS = 2
MARKER = b"this-sentence-is-a-secret"


def enrolment(tell: Narrator, stage: Stage) -> None:
    """Agents start; labelled pods are in, the other is not."""
    tell.chapter("1. Two agents start; a label on the namespace enrols its pods")
    with tell.claim("both agents are ready, every pod passed its canary connection") as claim:
        stage.start_agent(stage.a)
        stage.start_agent(stage.b)
        found: list[str] = []
        for node in (stage.a, stage.b):
            status = stage.ask(node, NodeStatus, "status")
            found += [pod.name for pod in status.pods if pod.state is PodState.ACTIVE]
            assert not status.problems, f"problems: {status.problems}"
        assert sorted(found) == ["cache", "client", "orders", "web"], f"active: {sorted(found)}"
        claim.detail = f"enrolled: {', '.join(sorted(found))}; outside: outsider"
    with tell.claim("each service account has its certificate, on its node only") as claim:
        names: dict[str, list[str]] = {}
        for node in (stage.a, stage.b):
            held = stage.ask(node, Certificates, "certs").certificates
            assert all(item.state is CertificateState.VALID for item in held), f"{held}"
            names[node.short_name] = sorted(item.identity.rsplit("/", 1)[1] for item in held)
        assert names == {"a": ["client", "web"], "b": ["cache", "orders"]}, f"{names}"
        claim.detail = f"spiffe://cluster.local/ns/{SHOP}/sa/…: {names}"


def paths(tell: Narrator, stage: Stage) -> None:
    """Unmodified applications talk over every path."""
    tell.chapter("2. Unmodified programs talk; the path depends on where the other end is")
    seen_before = len(stage.access_records())
    for family, url in (("IPv4", url4), ("IPv6", url6)):
        for server, where in ((stage.web, "same node"), (stage.orders, "other node")):
            with tell.claim(f"curl to nginx, {where}, {family}; it sees the real client") as claim:
                answer = curl(stage.client, url(server, f"/{family}")).check().stdout
                assert answer == f"hello from {server.name}\n", f"answer: {answer!r}"
                address = stage.client.address4 if url is url4 else stage.client.address6
                log = f"{address} /{family}\n"
                _eventually_logged(stage, server, log)
                claim.detail = f"from {address}"
    for name in ("web", "orders"):
        for address in VIPS[name]:
            host = f"[{address}]" if ":" in address else address
            with tell.claim(f"curl to the cluster address of {name}, {address}"):
                answer = curl(stage.client, f"http://{host}:{HTTP_PORT}/").check().stdout
                assert answer == f"hello from {name}\n", f"answer: {answer!r}"
    with tell.claim("redis across the nodes, through its cluster address") as claim:
        redis = ["redis-cli", "-h", VIPS["cache"][0], "-p", str(REDIS_PORT)]
        stage.client.run([*redis, "set", "meal", "soup"]).check()
        answer = stage.client.run([*redis, "get", "meal"]).check().stdout.strip()
        assert answer == "soup", f"answer: {answer!r}"
        claim.detail = "set meal soup; get meal -> soup"
    _who_talked(tell, stage, seen_before)


def _eventually_logged(stage: Stage, server: Pod, line: str) -> None:
    eventually(lambda: line in stage.seen_by(server), 30.0, f"nginx logs {line}")


def _who_talked(tell: Narrator, stage: Stage, skip: int) -> None:
    wanted = {
        ("client", "web"): "direct",
        ("client", "orders"): "hbone",
        ("client", "cache"): "hbone",
    }
    with tell.claim("the access logs agree: direct inside the node, mutual TLS between nodes"):

        def told() -> Counter[tuple[str, str, str, str]]:
            rows: Counter[tuple[str, str, str, str]] = Counter()
            for record in stage.access_records()[skip:]:
                if record.get("direction") == "outbound":
                    src, dst = record.get("src.workload", "?"), record.get("dst.workload", "?")
                    tls = "mutual TLS" if record.get("mutual_tls") else "kernel identity"
                    rows[str(src), str(dst), str(record["path"]), tls] += 1
            missing = [pair for pair in wanted if not any(row[:2] == pair for row in rows)]
            assert not missing, f"no line about {missing}; told: {dict(rows)}"
            return rows

        rows = eventually(told, 30.0, "the access logs tell every pair")
        wrong = [row for row in rows if wanted.get(row[:2], row[2]) != row[2]]
        assert not wrong, f"unexpected paths: {wrong}"
        cells = [(a, b, path, tls, str(count)) for (a, b, path, tls), count in sorted(rows.items())]
        tell.table(("from", "to", "path", "authenticated by", "connections"), cells)


def throughput(tell: Narrator, stage: Stage) -> None:
    """One iperf3 each way; an impression, not a benchmark."""
    tell.chapter("3. Speed, as iperf3 sees it (an impression, not a benchmark)")
    for server, where in ((stage.web, "same node, direct"), (stage.orders, "across, mutual TLS")):
        with tell.claim(f"{where}: {IPERF_SECONDS} s of iperf3 arrive") as claim:
            claim.detail = f"{_iperf_gbit_s(stage.client, server):.2f} Gbit/s"


def _iperf_gbit_s(client: Pod, server: Pod) -> float:
    argv = ["iperf3", "--client", server.address4, "--port", str(IPERF_PORT)]
    argv += ["--time", str(IPERF_SECONDS), "--json"]
    report = json.loads(client.run(argv, timeout_s=IPERF_SECONDS + 15).check().stdout)
    rate = float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    assert rate > 0.05, f"{rate} Gbit/s"
    return rate


def secrecy(tell: Narrator, stage: Stage) -> None:
    """The marker is readable without the mesh and unreadable within."""
    tell.chapter("4. What somebody on the wire between the nodes can read")
    target = url4(stage.orders, f"/{MARKER.decode()}")
    with tell.claim("from the pod outside the mesh: every word") as claim:
        with stage.lab.capture() as capture:
            curl(stage.outsider, target).check()
            capture.fence()
            assert capture.contains(MARKER), "the capture does not show plaintext: it is blind"
            assert capture.contains(b"hello from orders"), "the answer is not in the capture"
        claim.detail = "the request line and the answer are in the capture"
    with tell.claim("from an enrolled pod: not a byte of request or answer") as claim:
        with stage.lab.capture() as capture:
            curl(stage.client, target).check()
            curl(stage.client, url6(stage.orders, f"/{MARKER.decode()}")).check()
            capture.fence()
            size = capture.size_bytes
            assert not capture.contains(MARKER), "the request is readable on the wire"
            assert not capture.contains(b"hello from"), "the answer is readable on the wire"
            # An own certificate chain in the clear would name who talks to whom (TLS 1.3 hides it).
            assert not capture.contains(b"spiffe://"), "an identity is readable on the wire"
        claim.detail = f"{size} bytes captured on port 15008, all of them ciphertext"
