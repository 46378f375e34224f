"""No two readers may disagree where a request ends: ours beside h11 and nginx on one corpus.

Whatever both sides take as complete must be the same request, body and all. Refusing what another
reader takes is allowed, and frequent: doubt is refused here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.contract.http1.corpus import NEXT, corpus
from tests.contract.http1.peers import (
    NGINX,
    Read,
    noting,
    read_with_h11,
    read_with_nginx,
)
from tests.contract.http1.stage import run, serving, stage
from tests.support.processes import running_nginx

COUNT = 5000
SEED = 20


async def read_with_proxy(cases: list[bytes]) -> list[list[Read]]:
    """What the proxy passes on, as the server behind it sees it; over real sockets."""
    found: list[Read] = []
    results: list[list[Read]] = []
    async with stage(noting(found)) as here:
        for data in cases:
            await here.ask(data)
            results.append(list(found))
            found.clear()
    return results


def compare(cases: list[bytes], ours: list[list[Read]], others: list[list[Read]]) -> int:
    """Fail at the first disagreement; returns how many cases both sides took at least in part."""
    both = 0
    for data, mine, theirs in zip(cases, ours, others, strict=True):
        common = min(len(mine), len(theirs))
        both += common > 0
        assert mine[:common] == theirs[:common], data
    return both


def test_h11_and_the_proxy_agree_where_requests_end() -> None:
    async def main() -> None:
        cases = [data + NEXT for data in corpus(COUNT, SEED)]
        ours = await read_with_proxy(cases)
        both = compare(cases, ours, [read_with_h11(data) for data in cases])
        assert both > COUNT / 5
        assert sum(len(found) > 1 for found in ours) > COUNT / 8

    run(main())


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_and_the_proxy_agree_where_requests_end(tmp_path: Path) -> None:
    async def main() -> None:
        cases = [data + NEXT for data in corpus(COUNT // 5, SEED + 1)]
        ours = await read_with_proxy(cases)
        async with serving(noting([])) as backend:
            with running_nginx(tmp_path, NGINX.format(backend=backend)) as port:
                theirs = await read_with_nginx(port, cases)
        assert compare(cases, ours, theirs) > len(cases) / 5

    run(main())
