"""What whoever installs may set: one table, of which the documentation, the chart's values, its
schema and the check of `--set` are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import yaml

from mesh.errors import ConfigError

Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | Sequence[Json] | None"

_DURATION = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)"
_PATH = r"/.*"
_PRIORITY = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value.

    Attributes:
        name: path with dots, as `--set` and Helm write it.
        meaning: one sentence for the documentation.
        choices: everything that is allowed; empty for no such list.
        pattern: regular expression that a text must match as a whole.
        lowest: of a number.
    """

    name: str
    default: Json
    meaning: str
    choices: Sequence[str] = ()
    pattern: str = ""
    lowest: int = 0

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.name.split("."))


def _release() -> str:
    try:
        return version("meshnode")
    except PackageNotFoundError:
        return "dev"


def _resources(cpu: str, memory: str, limit: str) -> Json:
    """No limit on CPU: throttling a proxy stops every pod behind it."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}


SETTINGS: Sequence[Setting] = (
    Setting(name="image.repository", default="meshnode", meaning="The image, without its tag."),
    Setting(name="image.tag", default=_release(), meaning="The image's tag."),
    Setting(
        name="image.pullPolicy",
        default="IfNotPresent",
        choices=("Always", "IfNotPresent", "Never"),
        meaning="When nodes fetch the image.",
    ),
    Setting(
        name="image.pullSecrets",
        default=[],
        meaning='Secrets for the registry, as `[{"name": "…"}]`.',
    ),
    Setting(
        name="agent.workers",
        default=2,
        lowest=1,
        meaning="ztunnel workers of a node; about 40 MB each.",
    ),
    Setting(
        name="agent.logLevel",
        default="info",
        choices=("debug", "info", "warning", "error"),
        meaning="Level of the agent's own log.",
    ),
    Setting(
        name="agent.accessLog",
        default="json",
        choices=("text", "json", "off"),
        meaning="One line per connection, or none.",
    ),
    Setting(
        name="agent.drainTimeout",
        default="30s",
        pattern=_DURATION,
        meaning="How long open connections may go on after an upgrade of the agent.",
    ),
    Setting(
        name="agent.metricsPort",
        default=15020,
        lowest=1,
        meaning="Port of `/metrics` and `/healthz` on every node's address.",
    ),
    Setting(
        name="agent.podsCgroup",
        default="",
        pattern=r"|/sys/fs/cgroup/.*",
        meaning="Parent cgroup of all pods, such as `/sys/fs/cgroup/kubepods.slice`. "
        "Empty: the root of cgroup v2.",
    ),
    Setting(
        name="agent.maxSurge",
        default="10%",
        pattern=r"[1-9][0-9]*%?",
        meaning="How many nodes at once get the new agent beside the old one in an upgrade.",
    ),
    Setting(
        name="agent.resources",
        default=_resources("100m", "256Mi", "1Gi"),
        meaning="Requests and limits of the agent.",
    ),
    Setting(
        name="agent.tolerations",
        default=[{"operator": "Exists"}],
        meaning="Default: every node, also one that is not ready yet.",
    ),
    Setting(
        name="agent.nodeSelector",
        default={"kubernetes.io/os": "linux"},
        meaning="Nodes that get an agent.",
    ),
    Setting(
        name="agent.priorityClass",
        default="system-node-critical",
        pattern=_PRIORITY,
        meaning="PriorityClass of the agents: a node without one takes no pod into the mesh.",
    ),
    Setting(
        name="cni.enabled",
        default=True,
        meaning="Chain the CNI plugin: a pod starts only after it was captured.",
    ),
    Setting(
        name="cni.confDir",
        default="/etc/cni/net.d",
        pattern=_PATH,
        meaning="Where the node's network configuration is.",
    ),
    Setting(
        name="cni.binDir",
        default="/opt/cni/bin",
        pattern=_PATH,
        meaning="Where the node's network plugins are.",
    ),
    Setting(
        name="cni.timeout",
        default="30s",
        pattern=_DURATION,
        meaning="How long the start of a pod waits for its capture before it fails.",
    ),
    Setting(name="controller.replicas", default=2, lowest=1, meaning="One leads, others wait."),
    Setting(
        name="controller.healthPort",
        default=15014,
        lowest=1,
        meaning="Port of the controller's `/healthz` and `/metrics`.",
    ),
    Setting(
        name="controller.priorityClass",
        default="system-cluster-critical",
        pattern=_PRIORITY,
        meaning="PriorityClass of the controller.",
    ),
    Setting(
        name="controller.resources",
        default=_resources("50m", "128Mi", "512Mi"),
        meaning="Requests and limits of the controller.",
    ),
    Setting(name="controller.tolerations", default=[], meaning="Of the controller's pods."),
    Setting(
        name="controller.nodeSelector",
        default={"kubernetes.io/os": "linux"},
        meaning="Nodes that may run the controller.",
    ),
    Setting(name="crds.install", default=True, meaning="Install the kinds of `meshnode.io`."),
    Setting(
        name="gatewayClass.enabled",
        default=False,
        meaning="Make the GatewayClass `meshnode-waypoint`; the Gateway API must be installed.",
    ),
    Setting(
        name="priorityClass.enabled",
        default=False,
        meaning="Make the PriorityClass `meshnode`, for `agent.priorityClass` and "
        "`controller.priorityClass`, where the system's own may not be used outside `kube-system`.",
    ),
    Setting(
        name="networkPolicy.enabled",
        default=True,
        meaning="Let only what must reach the controller.",
    ),
    Setting(
        name="serviceMonitor.enabled",
        default=False,
        meaning="ServiceMonitor and PodMonitor for the Prometheus operator.",
    ),
    Setting(
        name="prometheusRule.enabled",
        default=False,
        meaning="Alerts for the Prometheus operator.",
    ),
    Setting(
        name="dashboards.enabled",
        default=False,
        meaning="Dashboards as ConfigMaps that Grafana's sidecar finds.",
    ),
)
_BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def defaults() -> dict[str, Json]:
    """Every value by name."""
    return {setting.name: setting.default for setting in SETTINGS}


def tree_of(values: Mapping[str, Json]) -> dict[str, object]:
    """Values by name as a tree, as in a chart's values.yaml."""
    made: dict[str, object] = {}
    for name, value in values.items():
        *above, last = name.split(".")
        place = made
        for step in above:
            inner = place.setdefault(step, {})
            if not isinstance(inner, dict):
                raise TypeError(f"{name} is below a value")
            place = inner
        place[last] = value
    return made


def read_values(text: str, where: str) -> dict[str, Json]:
    """Values of a YAML file, by name. Raises `ConfigError` that names what is wrong."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: this is no YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: values are a mapping, such as `image: {{tag: v1}}`")
    return dict(_leaves(tree, "", where))


def _leaves(tree: Mapping[str, Json], above: str, where: str) -> Iterator[tuple[str, Json]]:
    for key, value in tree.items():
        name = f"{above}{key}"
        if name in _BY_NAME:
            yield name, _checked(_BY_NAME[name], value, where)
        elif isinstance(value, Mapping) and _is_branch(name):
            yield from _leaves(value, f"{name}.", where)
        else:
            raise _unknown(name, where)


def _is_branch(name: str) -> bool:
    return any(known.startswith(f"{name}.") for known in _BY_NAME)


def read_set(text: str) -> tuple[str, Json]:
    """Parse `--set NAME=VALUE`; VALUE is YAML, so that `2` is a number and `[]` a list."""
    name, equals, value = text.partition("=")
    where = f"--set {text}"
    if not equals:
        raise ConfigError(f"{where}: write NAME=VALUE, such as image.tag=v1")
    setting = _BY_NAME.get(name)
    if setting is None:
        raise _unknown(name, where)
    if isinstance(setting.default, str):
        return name, _checked(setting, value, where)
    try:
        return name, _checked(setting, yaml.safe_load(value), where)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: this is no YAML value: {error}") from error


def _unknown(name: str, where: str) -> ConfigError:
    from difflib import get_close_matches

    close = get_close_matches(name, _BY_NAME, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; docs/install.md lists them all"
    return ConfigError(f"{where}: there is no setting {name}{hint}")


def _checked(setting: Setting, value: Json, where: str) -> Json:
    default = setting.default
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, int):
        fits = isinstance(value, int) and value >= setting.lowest
    elif isinstance(default, str):
        # Helm's own `--set` makes numbers of tags and of `maxSurge=1`.
        value = str(value) if isinstance(value, int | float) else value
        fits = isinstance(value, str) and _is_text_of(setting, value)
    else:
        fits = isinstance(value, list if isinstance(default, list) else dict)
    if not fits:
        raise ConfigError(f"{where}: {setting.name} is {kind_of(setting)}, not {value!r}")
    return value


def _is_text_of(setting: Setting, value: str) -> bool:
    if setting.choices:
        return value in setting.choices
    return not setting.pattern or re.fullmatch(setting.pattern, value) is not None


def kind_of(setting: Setting) -> str:
    """What may be given, in words."""
    match setting.default:
        case bool():
            return "true or false"
        case int():
            return f"a number from {setting.lowest}"
        case str() if setting.choices:
            return f"one of {', '.join(setting.choices)}"
        case str() if setting.pattern == _DURATION:
            return "a time such as 30s"
        case str() if setting.pattern:
            return f"text of the form {setting.pattern}"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def schema() -> dict[str, object]:
    """JSON schema of the chart's values (values.schema.json): what `_checked` checks."""
    root: dict[str, object] = {"$schema": "http://json-schema.org/draft-07/schema#"}
    _branch(root)
    for setting in SETTINGS:
        place = root
        for step in setting.path[:-1]:
            place = _branch(_properties(place).setdefault(step, {}))
        _properties(place)[setting.path[-1]] = _leaf(setting)
    # Helm hands its own values to every chart.
    _properties(root)["global"] = {"type": "object"}
    return root


def _branch(place: object) -> dict[str, object]:
    if not isinstance(place, dict):
        raise TypeError("a branch of a schema is a mapping")
    if "type" not in place:
        place.update({"type": "object", "additionalProperties": False, "properties": {}})
    return place


def _properties(place: dict[str, object]) -> dict[str, object]:
    found = place["properties"]
    if not isinstance(found, dict):
        raise TypeError("properties of a schema are a mapping")
    return found


def _leaf(setting: Setting) -> dict[str, object]:
    made: dict[str, object] = {"description": setting.meaning}
    match setting.default:
        case bool():
            made["type"] = "boolean"
        case int():
            made.update({"type": "integer", "minimum": setting.lowest})
        case str() if setting.choices:
            made["enum"] = list(setting.choices)
        case str():
            made["type"] = ["string", "number"]
            if setting.pattern:
                made["pattern"] = f"^(?:{setting.pattern})$"
        case list():
            made["type"] = "array"
        case _:
            made["type"] = "object"
    return made
