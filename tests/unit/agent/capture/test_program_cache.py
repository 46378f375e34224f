"""Programs that were compiled before: found only for the same source and headers, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.capture.program_cache import VARIABLE, Compiled, ProgramCache
from mesh.errors import KernelError

SOURCE, HEADERS = bytes(range(32)), "/usr/src/linux 6.1"
COMPILED = Compiled(code={"mn_connect4": bytes(range(256)), "mn_sockops": b""}, license="GPL")


@pytest.fixture
def cache(tmp_path: Path) -> ProgramCache:
    return ProgramCache(tmp_path / "programs")


def test_there_is_one_only_if_it_is_asked_for() -> None:
    assert ProgramCache.named({}) is None
    assert ProgramCache.named({VARIABLE: ""}) is None
    assert ProgramCache.named({VARIABLE: "/x"}) == ProgramCache(Path("/x"))


def test_what_was_kept_is_found(cache: ProgramCache) -> None:
    assert cache.find(SOURCE, HEADERS) is None
    cache.keep(SOURCE, HEADERS, COMPILED)
    assert cache.find(SOURCE, HEADERS) == COMPILED
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert len(list(cache.directory.iterdir())) == 1


def test_another_source_or_other_headers_have_their_own(cache: ProgramCache) -> None:
    cache.keep(SOURCE, HEADERS, COMPILED)
    assert cache.find(SOURCE[::-1], HEADERS) is None
    assert cache.find(SOURCE, "/usr/src/linux 6.6") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"code": {}}', '{"code": {"a": "x"}, "license": ""}']
)
def test_a_damaged_file_is_none(cache: ProgramCache, content: str) -> None:
    cache.keep(SOURCE, HEADERS, COMPILED)
    [file] = cache.directory.iterdir()
    file.write_text(content)
    assert cache.find(SOURCE, HEADERS) is None
    cache.keep(SOURCE, HEADERS, COMPILED)
    assert cache.find(SOURCE, HEADERS) == COMPILED


def test_a_directory_that_others_may_write_to_is_refused(cache: ProgramCache) -> None:
    cache.keep(SOURCE, HEADERS, COMPILED)
    cache.directory.chmod(0o777)
    with pytest.raises(KernelError, match="written to by others"):
        cache.find(SOURCE, HEADERS)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ProgramCache(tmp_path / "file" / "programs")
    cache.keep(SOURCE, HEADERS, COMPILED)
    assert cache.find(SOURCE, HEADERS) is None
