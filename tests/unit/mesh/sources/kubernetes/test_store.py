"""The store of one kind: what counts as news, and what is never lost."""

from __future__ import annotations

import pytest

from mesh.model.snapshot import Problem
from mesh.sources.kubernetes.items import Entry, HeadMetadata
from mesh.sources.kubernetes.store import Change, KindStore, key_of, version_number
from mesh.sources.objects import Metadata, NamespaceObject, SourceObject


def item(name: str) -> SourceObject:
    body = NamespaceObject(metadata=Metadata(name=name))
    return SourceObject(kind="Namespace", namespace="", name=name, where="", body=body)


def head(name: str, version: str) -> HeadMetadata:
    return HeadMetadata(name=name, resource_version=version)


def filled() -> KindStore:
    store = KindStore()
    assert store.replace({"/a": Entry(version="10", item=item("a"))}, "20")
    return store


def test_the_first_list_is_a_change_even_if_it_is_empty() -> None:
    store = KindStore()
    known = [store.is_synced, store.replace({}, "1"), store.is_synced, store.replace({}, "2")]
    assert known == [False, True, True, False]


@pytest.mark.parametrize(
    ("change", "version", "news"),
    [
        (Change.ADDED, "20", False),
        (Change.MODIFIED, "19", False),
        (Change.MODIFIED, "21", True),
        (Change.DELETED, "9", False),
        (Change.DELETED, "10", True),
        (Change.DELETED, "21", True),
        (Change.MODIFIED, "opaque", True),
        (Change.DELETED, "opaque", True),
    ],
)
def test_only_what_is_newer_is_news(change: Change, version: str, news: bool) -> None:
    assert filled().is_news(change, head("a", version)) is news


def test_the_end_of_an_unknown_object_is_no_news() -> None:
    assert not filled().is_news(Change.DELETED, head("b", "21"))


def test_an_object_does_not_come_back_after_its_end() -> None:
    store = filled()
    store.remove("/a", "21")
    assert not store.is_news(Change.MODIFIED, head("a", "20"))
    assert store.is_news(Change.ADDED, head("a", "22"))
    assert store.is_empty


def test_a_new_version_alone_is_no_change() -> None:
    store = filled()
    known = store.entry("/a")
    assert known is not None
    assert not store.put("/a", Entry(version="21", item=known.item))
    assert store.put("/a", Entry(version="22", item=item("a")))
    assert store.put(
        "/a", Entry(version="23", item=None, problem=Problem(where="", subject="", message="x"))
    )
    assert [problem.message for problem in store.problems] == ["x"]
    assert list(store.objects) == []


def test_lists_and_bookmarks_tell_how_far_the_store_is() -> None:
    store = filled()
    assert store.is_older("19")
    assert not store.is_older("20")
    assert not store.is_older("opaque")
    store.advance("30")
    assert store.is_older("29")
    store.advance("25")
    assert store.is_older("29")


def test_a_list_replaces_what_it_does_not_name() -> None:
    store = filled()
    assert store.replace({"/b": Entry(version="30", item=item("b"))}, "30")
    assert [found.name for found in store.objects] == ["b"]
    assert store.replace({"/b": Entry(version="31", item=item("b"))}, "31")


def test_a_missing_kind_is_known_to_be_empty() -> None:
    store = KindStore()
    known = [store.declare_missing(), store.is_synced, store.declare_missing()]
    assert known == [True, True, False]


def test_names_of_different_namespaces_do_not_meet() -> None:
    one = key_of(HeadMetadata(namespace="a", name="b-c"))
    assert one != key_of(HeadMetadata(namespace="a-b", name="c"))


@pytest.mark.parametrize("text", ["", "1e3", "x", "-1", "²", "9" * 30])
def test_other_versions_are_opaque(text: str) -> None:
    assert version_number(text) is None
