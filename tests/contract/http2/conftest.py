from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.http2.select import Engine
from tests.contract.http2.pair import ENGINES, Pair, pair

Wire = Callable[..., Pair]


@pytest.fixture(params=ENGINES)
def client_engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.param
    return engine


@pytest.fixture(params=ENGINES)
def server_engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.param
    return engine


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    name: Engine = request.param
    return name


@pytest.fixture
def wire(client_engine: Engine, server_engine: Engine) -> Wire:
    """Make a pair of every ordered combination of engines; takes what `pair()` takes."""
    return lambda **options: pair(client_engine, server_engine, **options)
