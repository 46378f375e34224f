"""What `meshnode install` prints is what a real API server takes."""

from __future__ import annotations

from tests.kube.real.cluster import Cluster
from tests.unit.agent.cli.invoke import meshnode


def test_applied_again_nothing_changes(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=cluster.manifests())
    # It ends with 1 where something would change.
    assert cluster.kubectl("diff", "-f", "-", stdin=cluster.manifests()).stdout == ""
    result = meshnode("upgrade", "--dry-run", "--kubeconfig", cluster.file)
    assert (result.exit_code, result.stdout) == (0, "nothing would change\n"), result.output


def test_a_server_that_keeps_account_of_fields_takes_it(cluster: Cluster) -> None:
    """Server-side apply is stricter: no list that is a map may name a key twice."""
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    assert (
        "serverside-applied" in cluster.kubectl("apply", *options, stdin=cluster.manifests()).stdout
    )
    every = cluster.manifests("dashboards.enabled=true", "networkPolicy.enabled=false")
    cluster.kubectl("apply", *options, stdin=every)


def test_every_kind_is_whole(cluster: Cluster) -> None:
    """A structural schema that the server found fault with is served all the same, but says so."""
    items = cluster.get("crd")["items"]
    assert isinstance(items, list)
    ours = [item for item in items if item["spec"]["group"] == "meshnode.io"]
    assert len(ours) == 6
    for item in ours:
        conditions = {one["type"]: one["status"] for one in item["status"]["conditions"]}
        assert conditions.get("NonStructuralSchema", "False") == "False", item["metadata"]["name"]
        assert conditions["NamesAccepted"] == "True"


def test_explain_knows_the_fields(cluster: Cluster) -> None:
    said = cluster.kubectl("explain", "trafficpolicies.spec", "--api-version=meshnode.io/v1alpha1")
    assert "targetRefs" in said.stdout
