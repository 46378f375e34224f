"""The manifests of an installation, plain and as a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest
import yaml

import installer
from agent.cli.main import cli
from bpf.layout import MAPS, MapType
from installer.agent import CAPABILITIES
from installer.alerts import ALWAYS_FULL
from installer.parts import CONTROLLER
from installer.reference import with_table
from installer.render import files, install_text
from installer.settings import SETTINGS, defaults, read_set, read_values, schema, tree_of
from installer.values import Given
from mesh.errors import ConfigError
from tests.unit.installer.helm import by_hand, by_helm, has_helm

ROOT = Path(installer.__file__).parent
EVERYTHING = {name: True for name, value in defaults().items() if value is False}


def rendered(**changes: object) -> list[Mapping[str, object]]:
    values = {**defaults(), **{k: v for k, v in changes.items() if isinstance(v, bool | str | int)}}
    return list(yaml.safe_load_all(install_text(Given(values=values))))


def named(kind: str, name: str) -> Mapping[str, object]:
    [found] = [one for one in rendered() if key_of(one)[0] == kind and key_of(one)[1] == name]
    return found


def key_of(manifest: object) -> tuple[str, str]:
    assert isinstance(manifest, Mapping)
    return str(manifest["kind"]), str(manifest["metadata"]["name"])


def without_namespace(manifests: Sequence[object]) -> dict[tuple[str, str], object]:
    """By kind and name; the namespace is Helm's own affair."""
    found = {key_of(one): one for one in manifests if key_of(one)[0] != "Namespace"}
    assert len(found) >= len(manifests) - 1, "two objects of one name"
    return found


def at(value: object, *path: str | int) -> object:
    for step in path:
        if isinstance(step, int):
            assert isinstance(value, Sequence)
            value = value[step]
        else:
            assert isinstance(value, Mapping)
            value = value[step]
    return value


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_chart_renders_what_install_prints(changes: dict[str, bool]) -> None:
    tree = tree_of({**defaults(), **changes})
    plain = without_namespace(rendered(**changes))
    assert without_namespace(by_hand(ROOT / "chart", tree)) == plain
    if has_helm():
        options = [f"--set={name}={str(value).lower()}" for name, value in changes.items()]
        assert without_namespace(by_helm(ROOT / "chart", *options)) == plain


def test_the_values_of_the_chart_are_the_settings() -> None:
    text = (ROOT / "chart" / "values.yaml").read_text()
    assert yaml.safe_load(text) == tree_of(defaults())
    assert read_values(text, "values.yaml") == defaults()
    assert json.loads((ROOT / "chart" / "values.schema.json").read_text()) == schema()


def test_the_document_lists_every_setting() -> None:
    document = (ROOT.parent / "docs" / "install.md").read_text()
    assert with_table(document) == document, "run `python -m installer`"
    for setting in SETTINGS:
        assert f"`{setting.name}`" in document


def test_everything_of_ours_can_be_found_by_one_label() -> None:
    for manifest in rendered(**EVERYTHING):
        assert at(manifest, "metadata", "labels", "app.kubernetes.io/part-of") == "meshnode"


def test_an_upgrade_finds_the_values_it_was_installed_with() -> None:
    record = at(named("ConfigMap", "meshnode-install"), "data", "values.json")
    assert read_values(str(record), "record") == defaults()


def test_the_agent_has_exactly_the_rights_it_needs() -> None:
    pod = at(named("DaemonSet", "meshnode-agent"), "spec", "template", "spec")
    security = at(pod, "containers", 0, "securityContext")
    assert at(security, "privileged") is False
    assert at(security, "readOnlyRootFilesystem") is True
    assert at(security, "capabilities") == {"drop": ["ALL"], "add": list(CAPABILITIES)}
    assert at(pod, "priorityClassName") == "system-node-critical"
    # A declared port would take the place on the node that the next agent of an upgrade needs.
    assert "ports" not in dict(at(pod, "containers", 0))  # type: ignore[call-overload]


def test_a_priority_class_of_our_own_where_the_systems_may_not_be_used() -> None:
    assert not [one for one in rendered() if one["kind"] == "PriorityClass"]
    made = rendered(
        **{
            "priorityClass.enabled": True,
            "agent.priorityClass": "meshnode",
            "controller.priorityClass": "meshnode",
        }
    )
    kinds = [one["kind"] for one in made]
    assert kinds.index("PriorityClass") < min(kinds.index("Deployment"), kinds.index("DaemonSet"))
    for one in made:
        if one["kind"] in ("Deployment", "DaemonSet"):
            assert at(one, "spec", "template", "spec", "priorityClassName") == "meshnode"


def test_the_controllers_health_port_is_one_everywhere() -> None:
    made = rendered(**{"controller.healthPort": 9999})
    text = json.dumps([one for one in made if key_of(one)[1] == CONTROLLER])
    assert "15014" not in text
    [deployment] = [one for one in made if one["kind"] == "Deployment"]
    container = at(deployment, "spec", "template", "spec", "containers", 0)
    assert "--health-port=9999" in str(at(container, "args"))
    for probe in ("readinessProbe", "livenessProbe"):
        assert at(container, probe, "httpGet", "port") == 9999


def test_the_controller_has_no_rights_at_all() -> None:
    pod = at(named("Deployment", CONTROLLER), "spec", "template", "spec")
    assert at(pod, "securityContext", "runAsNonRoot") is True
    security = at(pod, "containers", 0, "securityContext")
    assert at(security, "capabilities") == {"drop": ["ALL"]}
    assert at(security, "allowPrivilegeEscalation") is False
    budget = at(named("PodDisruptionBudget", CONTROLLER), "spec", "maxUnavailable")
    assert budget == 1


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment"])
def test_the_command_line_takes_what_the_manifests_say(kind: str) -> None:
    """Parsed, not run: an unknown option or a missing one would end the pod at once."""
    [manifest] = [one for one in rendered() if one["kind"] == kind]
    container = at(manifest, "spec", "template", "spec", "containers", 0)
    arguments = at(container, "args")
    assert isinstance(arguments, list)
    name, *rest = arguments
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with command.make_context(name, rest) as context:
        assert not context.args


def test_volumes_and_mounts_fit() -> None:
    for manifest in rendered():
        if manifest["kind"] not in ("DaemonSet", "Deployment"):
            continue
        pod = at(manifest, "spec", "template", "spec")
        volumes = at(pod, "volumes")
        mounts = at(pod, "containers", 0, "volumeMounts")
        assert isinstance(volumes, list)
        assert isinstance(mounts, list)
        assert {one["name"] for one in volumes} == {one["name"] for one in mounts}
        labels = at(manifest, "spec", "template", "metadata", "labels")
        assert isinstance(labels, Mapping)
        selector = at(manifest, "spec", "selector", "matchLabels")
        assert isinstance(selector, Mapping)
        assert set(selector.items()) <= set(labels.items())


def test_the_alert_on_full_maps_knows_which_are_meant_to_be_full() -> None:
    bounded = {MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.LRU_HASH}
    assert sorted(m.name for m in MAPS if m.type in bounded) == sorted(ALWAYS_FULL)


def test_quoted_texts_survive_yaml() -> None:
    text = install_text(Given(values={**defaults(), "image.tag": "1.0"}))
    for manifest in yaml.safe_load_all(text):
        if manifest["kind"] == "DaemonSet":
            image = at(manifest, "spec", "template", "spec", "containers", 0, "image")
            assert image == "meshnode:1.0"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image.tagg=v1", "did you mean image.tag?"),
        ("image.tag", "write NAME=VALUE"),
        ("agent.workers=0", "agent.workers is a number from 1"),
        ("agent.workers=true", "agent.workers is a number"),
        ("agent.accessLog=xml", "one of text, json, off"),
        ("agent.drainTimeout=soon", "a time such as 30s"),
        ("cni.enabled=perhaps", "true or false"),
        ("agent.tolerations={}", "agent.tolerations is a list"),
        ("agent.podsCgroup=/tmp", "agent.podsCgroup is text of the form"),
    ],
)
def test_a_wrong_setting_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("?", r"\?")):
        read_set(text)


def test_a_file_of_values_is_read_with_its_branches() -> None:
    found = read_values("image: {tag: v2}\nagent:\n  workers: 4\n", "v.yaml")
    assert found == {"image.tag": "v2", "agent.workers": 4}
    for text, complaint in (
        ("image: v2", "there is no setting image"),
        ("agents: {workers: 1}", "there is no setting agents"),
        ("- a", "values are a mapping"),
        ("a: [", "this is no YAML"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            read_values(text, "v.yaml")


def test_the_files_are_what_the_code_says() -> None:
    written = {
        str(path.relative_to(ROOT)): path.read_text() for path in _generated() if path.is_file()
    }
    assert written == dict(files()), "run `python -m installer`"


def _generated() -> Iterator[Path]:
    for folder in ("crds", "rbac", "chart", "dashboards"):
        yield from (ROOT / folder).rglob("*")
