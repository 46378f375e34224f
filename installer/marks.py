"""Takes from pods what agents wrote there: nobody is left who could say that it is not so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.share import ENROLMENT_ANNOTATION, ENROLMENT_REASON_ANNOTATION
from mesh.sources.kubernetes.transport import MERGE_PATCH, KubeApi

MARKS = (ENROLMENT_ANNOTATION, ENROLMENT_REASON_ANNOTATION)
PAGE = 500
AT_ONCE = 8
_WITHOUT = json.dumps({"metadata": {"annotations": dict.fromkeys(MARKS)}}).encode()


async def take_marks_off(api: KubeApi) -> int:
    """Take the annotations off every pod that has them; of how many. Raises `KubeError`."""
    cleaned = 0
    async for pods in _marked(api):
        for start in range(0, len(pods), AT_ONCE):
            batch = [_clean(api, path) for path in pods[start : start + AT_ONCE]]
            results = await asyncio.gather(*batch, return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            if failures:
                raise failures[0]
            cleaned += len(batch)
    return cleaned


async def _marked(api: KubeApi) -> AsyncIterator[list[str]]:
    """Paths of pods with annotations of ours, a page at a time."""
    query = {"limit": str(PAGE)}
    while True:
        listed = json.loads(await api.request("GET", collection_path("v1", "pods"), query=query))
        metas = [item["metadata"] for item in listed.get("items") or ()]
        yield [_path(meta) for meta in metas if _is_marked(meta)]
        token = listed.get("metadata", {}).get("continue")
        if not token:
            return
        query = {"limit": str(PAGE), "continue": token}


def _is_marked(meta: Mapping[str, object]) -> bool:
    annotations = meta.get("annotations")
    return isinstance(annotations, dict) and any(mark in annotations for mark in MARKS)


def _path(meta: Mapping[str, object]) -> str:
    return f"{collection_path('v1', 'pods', str(meta['namespace']))}/{meta['name']}"


async def _clean(api: KubeApi, path: str) -> None:
    try:
        await api.request("PATCH", path, body=_WITHOUT, content_type=MERGE_PATCH)
    except KubeError as error:
        if not error.is_missing:
            raise
