"""One real cluster without nodes for all tests of this folder; each has a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.real.cluster import Cluster
from tests.support.kube_real import assets, real_server

NO_ASSETS = "needs kube-apiserver, etcd and kube-controller-manager in KUBEBUILDER_ASSETS"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    binaries = assets()
    has_all = binaries is not None and (binaries / "kube-controller-manager").is_file()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if not has_all:
                item.add_marker(pytest.mark.skip(reason=NO_ASSETS))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The server with managers; the Gateway API and meshnode are installed in it."""
    binaries = assets()
    assert binaries is not None, NO_ASSETS
    gateway_api = Path(os.environ.get("GATEWAY_API_CRDS", binaries.parent / "gateway-api"))
    directory = tmp_path_factory.mktemp("cluster")
    with real_server(binaries, directory, has_managers=True) as server:
        made = Cluster(server, gateway_api)
        made.prepare()
        yield made
