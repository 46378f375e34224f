"""Nameless namespaces and holders of scratch nodes; all of them are gone after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.netns.holder.scratch import Holder, Namespace, make_holder, make_namespace


@pytest.fixture
def namespace() -> Iterator[Callable[[], Namespace]]:
    """Makes network namespaces with loopback up."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(make_namespace())


@pytest.fixture
def pod(namespace: Callable[[], Namespace]) -> Namespace:
    """One namespace."""
    return namespace()


@pytest.fixture
def holder_for() -> Iterator[Callable[[float], Holder]]:
    """Makes holders with a given grace period in seconds."""
    with ExitStack() as stack:
        yield lambda grace_s: stack.enter_context(make_holder(grace_s))


@pytest.fixture
def holder(holder_for: Callable[[float], Holder]) -> Holder:
    """A holder that never resets connections while the test runs."""
    return holder_for(600.0)
