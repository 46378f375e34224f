"""The queue of bytes before a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.tunnel.write_queue import WriteQueue

_SIZES = st.one_of(st.integers(0, 40), st.integers(4000, 4200), st.integers(60_000, 70_000))


@given(st.lists(st.tuples(_SIZES, st.integers(0, 90_000)), max_size=30))
def test_bytes_leave_in_order(steps: list[tuple[int, int]]) -> None:
    queue, reference, fill = WriteQueue(), bytearray(), 0
    for size, removed in steps:
        fill = (fill + 1) % 256
        data = bytes((fill,)) * size
        queue.append(data)
        reference += data
        front = b"".join(map(bytes, queue.pieces()))
        assert reference.startswith(front)
        assert bool(front) == bool(reference)
        count = min(removed, len(front))
        queue.advance(count)
        del reference[:count]
        assert len(queue) == len(reference)


def test_tiny_pieces_are_joined() -> None:
    queue = WriteQueue()
    for _ in range(50_000):
        queue.append(b"x")
    assert len(queue) == 50_000
    assert len(queue.pieces()) == 1


def test_clear() -> None:
    queue = WriteQueue()
    queue.append(b"abc")
    queue.clear()
    assert not queue.pieces()
    assert len(queue) == 0
