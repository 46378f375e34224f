"""A Prometheus that scraped the mesh: named by its address, or found in a cluster."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import click
import msgspec

from agent.cli.output.progress import progress
from agent.cli.output.shared import Command
from agent.cli.reach.observers import open_reach
from agent.cli.reach.reach_options import chosen_cluster
from mesh.errors import ConfigError, MeshnodeError
from mesh.telemetry.history import Answer, Asked, Series, history, queries
from mesh.telemetry.window_answer import Traffic

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
PARALLEL = 4
Fetch = Callable[[str, Mapping[str, str]], bytes]
"""The body of the answer to a path with a query."""


class NoHistory(MeshnodeError):
    """Prometheus cannot be asked, or refuses."""


class _Found(msgspec.Struct):
    metric: dict[str, str] = {}
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct):
    result: list[_Found]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One server. `name` is for people."""

    name: str
    fetch: Fetch

    def traffic(self, seconds: float, about: str = "") -> Traffic:
        """What was counted in the last `seconds`. Raises `NoHistory`."""
        window = f"{seconds:.0f}s"
        totals = self._ask(queries(about), window, {})
        return history(self.name, seconds, totals)

    def story(self, seconds: float, about: str, points: int) -> Traffic:
        """The same about one object, with its course in so many points."""
        step_s, now = max(round(seconds / points), 1), time.time()
        totals = self._ask(queries(about), f"{seconds:.0f}s", {})
        over = {"start": f"{now - seconds + step_s:.0f}", "end": f"{now:.0f}", "step": f"{step_s}"}
        course = self._ask(queries(about, with_durations=False), f"{step_s}s", over)
        return history(self.name, seconds, totals, course, now=now, step_s=step_s)

    def _ask(self, asked: Sequence[Asked], window: str, over: Mapping[str, str]) -> list[Answer]:
        def one(question: Asked) -> Answer:
            expr = question.expr.replace("$range", window)
            path = "/api/v1/query_range" if over else "/api/v1/query"
            return question.counted, self._series(path, {"query": expr, **over})

        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(one, asked))

    def _series(self, path: str, query: Mapping[str, str]) -> list[Series]:
        body = self.fetch(path, query)
        try:
            found = msgspec.json.decode(body, type=_Answer)
        except msgspec.DecodeError as error:
            raise NoHistory(f"{self.name} does not answer as a Prometheus: {error}") from error
        if found.data is None or found.status != "success":
            raise NoHistory(f"{self.name}: {found.error or 'refused'}")
        return [
            Series(labels=one.metric, values=[(at, float(value)) for at, value in _values(one)])
            for one in found.data.result
        ]


def _values(found: _Found) -> Sequence[tuple[float, str]]:
    return [found.value] if found.value is not None else found.values


def prometheus_option(command: Command) -> Command:
    """`--prometheus`."""
    option = click.option(
        "--prometheus",
        envvar="MESHNODE_PROMETHEUS",
        metavar="URL",
        help="Prometheus to ask about more than the last 15 minutes. Default: the one of the "
        "cluster, if it is found.",
    )
    return option(command)


def open_prometheus(url: str | None) -> Prometheus | None:
    """The one that was named, else the one of the chosen cluster; None where there is none."""
    if url is not None:
        return Prometheus(url_without_secret(url), _over_http(url))
    context = click.get_current_context()
    choice = chosen_cluster(context)
    if choice is None:
        return None
    reach = open_reach(context, choice)
    with progress("looking for Prometheus"):
        service = reach.find_prometheus()
    if service is None:
        return None
    return Prometheus(service, lambda path, query: reach.proxied(service, path, query))


def need_prometheus(url: str | None) -> Prometheus:
    """The same; raises `ConfigError` where there is none."""
    found = open_prometheus(url)
    if found is None:
        raise ConfigError(
            "agents and waypoints remember 15 minutes: name a Prometheus that scrapes them with "
            "--prometheus URL or MESHNODE_PROMETHEUS, or use --since 15m"
        )
    return found


def url_without_secret(url: str) -> str:
    """Check the address; what people see of it. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--prometheus {url}: write http://HOST:PORT or https://HOST:PORT")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _over_http(url: str) -> Fetch:
    parts, base = urlsplit(url), url_without_secret(url)
    headers = {"Accept": "application/json"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"

    def fetch(path: str, query: Mapping[str, str]) -> bytes:
        # A form, as selectors of many names may be longer than an address may be.
        request = Request(f"{base}{path}", urlencode(query).encode(), headers)
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(MAX_ANSWER_BYTES))
        except HTTPError as error:
            with error:
                return _refusal(base, error)
        except (URLError, OSError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise NoHistory(f"Prometheus at {base} does not answer: {reason}") from error

    return fetch


def _refusal(base: str, error: HTTPError) -> bytes:
    """Prometheus says in JSON what is wrong; what stands in front of it, in its own way."""
    if "json" in error.headers.get("Content-Type", ""):
        return bytes(error.read(MAX_ANSWER_BYTES))
    raise NoHistory(f"Prometheus at {base} answers HTTP {error.code} {error.reason}") from error
