"""Every test of HTTP/2 and gRPC twice: with Python's exchanges alone, and with the lane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.http1.laned import USE_H2_LANE


@pytest.fixture(params=[False, True], ids=["codecs", "lane"])
def h2_lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    token = USE_H2_LANE.set(request.param)
    yield request.param
    USE_H2_LANE.reset(token)
