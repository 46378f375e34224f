"""The windows of a tunnel's streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.tunnel.contract import TunnelSettings
from mesh.tunnel.windows import StreamWindow, Windows, first_window

SETTINGS = TunnelSettings(max_concurrent_streams=4, connection_window_bytes=1 << 20)


def test_window_grows_once_it_was_used_up() -> None:
    windows = Windows(SETTINGS)
    window = windows.open()
    assert windows.consumed(window, 65_534) == 0
    assert windows.consumed(window, 1) == 65_535
    assert window.size == 2 * 65_535


def test_window_stays_below_the_limit() -> None:
    settings = TunnelSettings(stream_window_bytes=100_000)
    windows = Windows(settings)
    window = windows.open()
    assert windows.consumed(window, 65_535) == 100_000 - 65_535
    assert windows.consumed(window, 1 << 20) == 0


def test_small_windows_stay_small() -> None:
    settings = TunnelSettings(stream_window_bytes=1000)
    assert first_window(settings) == 1000
    assert Windows(settings).consumed(StreamWindow(1000), 5000) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 18), st.booleans())))
def test_all_windows_fit_into_the_connections(steps: list[tuple[int, int, bool]]) -> None:
    windows = Windows(SETTINGS)
    streams = [windows.open() for _ in range(4)]
    for index, count, ends in steps:
        windows.consumed(streams[index], count)
        if ends:
            windows.close(streams[index])
            windows.close(streams[index])
            streams[index] = windows.open()
        assert sum(s.size for s in streams) <= SETTINGS.connection_window_bytes
