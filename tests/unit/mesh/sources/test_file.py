"""The directory on a real file system with real inotify."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.sources.file import MAX_FILE_BYTES, FileSource
from mesh.sources.objects import ObjectSet

TIMEOUT_S = 60.0


def namespace(name: str) -> str:
    """The YAML of a namespace."""
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n"


def names(objects: ObjectSet) -> list[str]:
    """The names of all objects."""
    return [item.name for item in objects.objects]


def test_reads_one_level_in_order_and_skips_what_is_not_configuration(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(namespace("b1") + namespace("b2"))
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "v1",\n\t"kind": "Namespace", "metadata": {"name": "a"}}'
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.yml").write_text(namespace("d"))
    (tmp_path / "c" / "deep").mkdir()
    (tmp_path / "c" / "deep" / "e.yml").write_text(namespace("e"))
    (tmp_path / ".hidden.yaml").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    found = FileSource(tmp_path).load_once()
    assert names(found) == ["a", "b1", "b2", "d"]
    assert found.problems == ()
    assert found.objects[2].where == f"{tmp_path}/b.yaml:5"


def test_links_pipes_and_giants_are_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text(namespace("x"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real.txt")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "vast.yaml").write_text("#" * (MAX_FILE_BYTES + 1))
    found = FileSource(tmp_path).load_once()
    assert found.objects == ()
    assert [(problem.where, problem.message) for problem in found.problems] == [
        (f"{tmp_path}/link.yaml", "symbolic links are not followed"),
        (f"{tmp_path}/pipe.yaml", "not a regular file"),
        (f"{tmp_path}/vast.yaml", "larger than 4 MiB"),
    ]


def test_a_missing_directory_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        FileSource(tmp_path / "gone").load_once()


def test_unchanged_objects_stay_the_same_objects(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("a") + namespace("b"))
    source = FileSource(tmp_path)
    before = source.load_once()
    (tmp_path / "a.yaml").write_text(namespace("a") + namespace("c"))
    after = source.load_once()
    assert names(after) == ["a", "c"]
    assert after.objects[0] is before.objects[0]


class Watcher:
    """Asks a source for its next state that fits."""

    def __init__(self, states: AsyncIterator[ObjectSet]) -> None:
        self._states = states

    async def until(self, fits: Callable[[ObjectSet], bool]) -> ObjectSet:
        """Wait for a state that fits."""
        async with asyncio.timeout(TIMEOUT_S):
            async for state in self._states:
                if fits(state):
                    return state
        raise AssertionError("the source ended")


def watching(directory: Path, story: Callable[[Watcher], Awaitable[None]]) -> None:
    """Run a story against a watched directory."""

    async def run() -> None:
        states = FileSource(directory).watch()
        try:
            await story(Watcher(states))
        finally:
            await states.aclose()

    asyncio.run(run())


def test_follows_writes_renames_breakage_and_deletion(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(namespace("a"))

    async def story(watcher: Watcher) -> None:
        await watcher.until(lambda state: names(state) == ["a"])
        (tmp_path / "new").write_text(namespace("b"))
        (tmp_path / "new").rename(path)
        await watcher.until(lambda state: names(state) == ["b"])
        path.write_text("{")
        broken = await watcher.until(lambda state: bool(state.problems))
        assert names(broken) == ["b"]
        assert broken.problems[0].where == f"{path}:1"
        path.write_text(namespace("c"))
        mended = await watcher.until(lambda state: names(state) == ["c"])
        assert mended.problems == ()
        path.unlink()
        await watcher.until(lambda state: names(state) == [])

    watching(tmp_path, story)


def test_a_vanished_directory_keeps_its_state_until_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "mesh"
    directory.mkdir()
    (directory / "a.yaml").write_text(namespace("a"))

    async def story(watcher: Watcher) -> None:
        await watcher.until(lambda state: names(state) == ["a"])
        directory.rename(tmp_path / "away")
        gone = await watcher.until(lambda state: bool(state.problems))
        assert names(gone) == ["a"]
        assert "the last good state of all its files stays in force" in gone.problems[0].message
        directory.mkdir()
        (directory / "b.yaml").write_text(namespace("b"))
        await watcher.until(lambda state: names(state) == ["b"] and not state.problems)

    watching(directory, story)
