"""Every test twice: with the Python codecs alone, and with the lane before them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.http1.laned import USE_LANE


@pytest.fixture(autouse=True, params=[False, True], ids=["codecs", "lane"])
def lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    token = USE_LANE.set(request.param)
    yield request.param
    USE_LANE.reset(token)
