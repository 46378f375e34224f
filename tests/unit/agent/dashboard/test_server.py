"""The dashboard's server: who gets in, what is told, and under which headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from agent.dashboard.data import HISTORY_S, POINTS, Overview, Story, course
from agent.dashboard.server import SECRET_HEADER
from mesh.telemetry.window_stats import By
from tests.browser.page import SECRET, served
from tests.browser.world import RULE, small

Ask = Callable[[str, str], Awaitable[None]]


def with_client(tmp_path: Path, use: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with served(small(), tmp_path) as url:
            headers = {SECRET_HEADER: SECRET}
            async with aiohttp.ClientSession(url, headers=headers) as client:
                await use(client)

    asyncio.run(run())


def test_files_come_with_a_strict_policy(tmp_path: Path) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        names = ("/", "/app.js", "/style.css", "/icon.svg", "/graph.js", "/story.js", "/nothing")
        for name in names:
            async with client.get(name) as response:
                assert response.status == (404 if name == "/nothing" else 200)
                policy = response.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'")
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"

    with_client(tmp_path, use)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = Path(__file__).parents[4] / "agent" / "dashboard" / "page"
    for file in page.iterdir():
        text = file.read_text().replace("http://www.w3.org/", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert " style=" not in text, file
        assert "innerHTML" not in text, file


@pytest.mark.parametrize("secret", ["", "wrong", "ünknown"])
def test_questions_need_the_secret(tmp_path: Path, secret: str) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        async with client.get("/api/overview", headers={SECRET_HEADER: secret}) as response:
            assert response.status == 403
            assert (await response.json())["error"]["code"] == "secret"

    with_client(tmp_path, use)


def test_another_host_name_gets_nothing(tmp_path: Path) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        async with client.get("/", headers={"Host": "evil.example"}) as response:
            assert response.status == 421

    with_client(tmp_path, use)


def test_overview_and_story(tmp_path: Path) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        async with client.get("/api/overview?seconds=300") as response:
            overview = msgspec.json.decode(await response.read(), type=Overview)
        assert [one.policy for one in overview.denials] == [RULE]
        assert {row.name for row in overview.services} >= {"bank/pay", "shop/cart"}
        assert overview.nodes[0].pods[0].name == "cart"
        async with client.get("/api/story?by=service&name=bank/pay") as response:
            story = msgspec.json.decode(await response.read(), type=Story)
        assert story.unit == "requests"
        assert len(story.course) == POINTS
        assert story.course[0].ago_s > story.course[-1].ago_s
        assert any(beat.failed_per_s for beat in story.course)

    with_client(tmp_path, use)


@pytest.mark.parametrize(
    "path", ["/api/overview?seconds=x", "/api/overview?seconds=9999", "/api/story?by=pod&name=a/b"]
)
def test_bad_questions(tmp_path: Path, path: str) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        async with client.get(path) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "bad_request"

    with_client(tmp_path, use)


def test_the_simulator_asks_an_agent(tmp_path: Path) -> None:
    async def use(client: aiohttp.ClientSession) -> None:
        question = {"src": "shop/old", "dst": "shop/pay", "port": 8080, "request": None}
        async with client.post("/api/authz", json=question) as response:
            found = await response.json()
        assert (found["allowed"], found["decided_by"]["policy"]) == (False, "shop/only-cart")
        async with client.post("/api/authz", json={**question, "dst": "shop/x"}) as response:
            assert response.status == 400

    with_client(tmp_path, use)


def test_the_course_keeps_the_sum() -> None:
    answer = small().recent.answer(HISTORY_S, points=True)
    closed = sum(edge.closed for edge in answer.edges if edge.service == "shop/cart")
    beats = course([answer], By.SERVICE, "shop/cart")
    assert sum(beat.per_s for beat in beats) * HISTORY_S / POINTS == pytest.approx(closed, rel=0.02)
