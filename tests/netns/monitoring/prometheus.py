"""Debian's Prometheus as a process of a lab, on loopback of one node's namespace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import yaml

from tests.lab import Node, Process, eventually

ADDRESS = "127.0.0.1:9090"
INTERVAL = "1s"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server and where to ask it from."""

    node: Node
    process: Process

    def ask(self, path: str, **parameters: str) -> object:
        """The data of an API answer; AssertionError with the server's words for a refusal."""
        url = f"http://{ADDRESS}/api/v1/{path}?{urlencode(parameters)}"
        answer = json.loads(self.node.run(["curl", "-sS", "-g", url]).check().stdout)
        assert answer["status"] == "success", f"{path} {parameters}: {answer}"
        data: object = answer["data"]
        return data

    def query(self, expr: str) -> list[Mapping[str, object]]:
        """Samples of an instant query."""
        data = self.ask("query", query=expr)
        assert isinstance(data, dict)
        result = data["result"]
        assert isinstance(result, list)
        return result

    def values(self, label: str, metric: str) -> list[str]:
        """Values of a label, as a dashboard's variable asks."""
        data = self.ask(f"label/{label}/values", **{"match[]": metric})
        assert isinstance(data, list)
        return [str(one) for one in data]

    def alerts(self) -> Mapping[str, str]:
        """State of every rule by its name; AssertionError for one that cannot be evaluated."""
        data = self.ask("rules")
        assert isinstance(data, dict)
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        for rule in rules:
            assert rule["health"] in ("ok", "unknown"), rule
            assert not rule.get("lastError"), rule
        return {rule["name"]: rule["state"] for rule in rules if rule["health"] == "ok"}

    def all_scraped(self) -> bool:
        """Whether every target answers; AssertionError that says what the others do."""
        data = self.ask("targets", state="active")
        assert isinstance(data, dict)
        bad = [
            f"{target['scrapeUrl']}: {target['health']} {target['lastError']}"
            for target in data["activeTargets"]
            if target["health"] != "up"
        ]
        assert data["activeTargets"], "no targets yet"
        assert not bad, "; ".join(bad)
        return True


def start_prometheus(
    node: Node, directory: Path, jobs: Mapping[str, Sequence[str]], rules: object
) -> Prometheus:
    """Start it and wait until every target was scraped."""
    directory.mkdir()
    (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
    configuration = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(directory / "rules.yaml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]}
            for job, targets in jobs.items()
        ],
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    process = node.start(
        [
            "prometheus",
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={ADDRESS}",
            "--log.level=warn",
        ]
    )
    made = Prometheus(node, process)
    ready = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{ADDRESS}/-/ready"]
    eventually(lambda: node.run(ready).stdout == "200", 30, "Prometheus is ready")
    eventually(made.all_scraped, 30, "every target was scraped once")
    return made
