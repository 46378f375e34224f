"""The page about a mesh that runs, in a real browser: what was denied, and why, for everybody."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.browser.chromium import Page, chromium_page, find_chromium
from tests.lab import eventually
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.netns.cli.shopfront import RULE, shopfront
from tests.netns.waypoint.mesh import Shop

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def scene() -> Iterator[Shop]:
    with shopfront("page") as running:
        yield running


@asynccontextmanager
async def dashboard(node: str, log: Path) -> AsyncIterator[str]:
    """`meshnode dashboard` as root of the machine starts it; yields its address."""
    process = await asyncio.to_thread(_start, node, log)

    def address() -> str | None:
        return next((word for word in log.read_text().split() if "#secret=" in word), None)

    try:
        found = await asyncio.to_thread(eventually, address, 60.0, "the page's address")
        assert found is not None
        yield found
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


def _start(node: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [*MESHNODE, "dashboard", "--listen", "127.0.0.1:0", "--node", node],
            stdout=output,
            stderr=output,
            env={**os.environ, **MESHNODE_ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        )


async def shows(page: Page, place: str, *texts: str) -> None:
    """Wait until a page holds texts; it reads anew every five seconds."""
    await page.run(f"location.hash = '#/{place}'")
    for text in texts:
        await page.wait(f"document.querySelector('#main').innerText.includes({text!r})")


def test_a_denial_on_every_page(scene: Shop, tmp_path: Path) -> None:
    """The same rule as tap, access log, `authz check` and metrics name; see test_denial."""

    async def look() -> None:
        async with (
            dashboard(scene.client.node.name, tmp_path / "log") as url,
            chromium_page(tmp_path / "profile") as page,
        ):
            await page.size(1280, 800)
            await page.open(url)
            await page.wait("document.querySelectorAll('.node').length > 1")
            await page.run("""
                const choice = document.querySelector('#since');
                choice.value = '900';
                choice.dispatchEvent(new Event('change'))""")
            await shows(page, "denials", RULE, "shop/client", "GET /admin/users")
            await shows(page, "service/shop%2Fweb", RULE, "behind waypoint shop/gate",
                        "DENY AuthorizationPolicy shop/no-admin")  # fmt: skip
            assert await page.run("document.querySelectorAll('.spark').length") == 2
            await shows(page, "edges", "waypoint", "hbone")
            await shows(page, "services", "HTTPRoute/shop/web/all")
            await shows(page, "health", scene.client.node.name)
            await shows(page, "graph")
            await page.wait(
                "[...document.querySelectorAll('.edge title')]"
                ".some((one) => one.textContent.includes('shop/client to shop/gate'))"
            )
            await simulate(page)
            assert page.complaints == []

    asyncio.run(look())


async def simulate(page: Page) -> None:
    await page.run("location.hash = '#/simulator'")
    await page.wait("document.querySelector('form.sim')")
    wanted = {"src": "shop/client", "dst": "shop/web", "port": "80", "path": "/admin/users"}
    for name, value in wanted.items():
        field = f"document.querySelector('[name={name}]')"
        await page.run(f"{field}.value = {value!r}; {field}.dispatchEvent(new Event('input'))")
    await page.run("document.querySelector('form.sim').requestSubmit()")
    await page.wait(f"document.querySelector('#answer').innerText.includes('Denied by {RULE}')")
