"""Objects cut down to what the mesh reads, with equal parts stored once.

The pods of a deployment differ in name and address; labels, owners, ports and node names repeat
by the thousand. Without this 100,000 pods would not fit into the agent's memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar, cast

from mesh.sources.objects import (
    Body,
    EndpointSliceObject,
    Metadata,
    NamespaceObject,
    PodObject,
    PodSpec,
    PodStatus,
    ServiceAccountObject,
    ServiceObject,
    SliceEndpoint,
    TargetObject,
)

Part = TypeVar("Part", bound=Hashable)

MAX_PARTS = 100_000
"""Then everything is forgotten and sharing begins anew: labels of jobs never come back."""

NETNS_ANNOTATION = "meshnode.io/netns"
ENROLMENT_ANNOTATION = "meshnode.io/enrolment"
ENROLMENT_REASON_ANNOTATION = "meshnode.io/enrolment-reason"
_NOT_READ = frozenset({NETNS_ANNOTATION, ENROLMENT_ANNOTATION, ENROLMENT_REASON_ANNOTATION})
"""What agents write is not for them to read: it would make every step of a pod a change."""
_NO_TEXTS: Mapping[str, str] = {}


class Sharer:
    """Remembers parts of objects. One per source."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, Hashable] = {}
        self._texts: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}

    def shrink(self, body: Body) -> Body:
        """Return an object that means the same to the reducer, in less memory.

        A pod's `meshnode.io/netns` is dropped: whoever may create a pod must not choose the
        network namespace that the agent enters.
        """
        if isinstance(body, PodObject):
            return self._pod(body)
        if isinstance(body, EndpointSliceObject):
            return self._slice(body)
        if isinstance(body, NamespaceObject):
            return NamespaceObject(metadata=self._metadata(body.metadata))
        if isinstance(body, ServiceAccountObject):
            # Only its name counts.
            meta = Metadata(
                name=self.part(body.metadata.name), namespace=self.part(body.metadata.namespace)
            )
            return ServiceAccountObject(metadata=meta)
        if isinstance(body, ServiceObject):
            return ServiceObject(metadata=self._metadata(body.metadata), spec=body.spec)
        return body

    def part(self, value: Part) -> Part:
        """Return the first value that was equal to this one."""
        if len(self._parts) >= MAX_PARTS:
            self._parts.clear()
        return cast("Part", self._parts.setdefault(value, value))

    def texts(self, value: Mapping[str, str]) -> Mapping[str, str]:
        """Share a mapping of texts: labels, annotations."""
        if not value:
            return _NO_TEXTS
        key = tuple(sorted(value.items()))
        known = self._texts.get(key)
        if known is None:
            if len(self._texts) >= MAX_PARTS:
                self._texts.clear()
            known = {self.part(name): self.part(text) for name, text in key}
            self._texts[tuple(known.items())] = known
        return known

    def _metadata(self, meta: Metadata) -> Metadata:
        return Metadata(
            name=meta.name,
            namespace=self.part(meta.namespace),
            labels=self.texts(meta.labels),
            annotations=self.texts(_needed(meta.annotations)),
            owner_references=self.part(tuple(o for o in meta.owner_references if o.controller)),
        )

    def _pod(self, pod: PodObject) -> PodObject:
        spec, status = pod.spec, pod.status
        addresses = status.pod_ips
        if len(addresses) == 1 and addresses[0].ip == status.pod_ip:
            addresses = ()
        named = tuple(c for c in spec.containers if any(port.name for port in c.ports))
        return PodObject(
            metadata=self._metadata(pod.metadata),
            spec=self.part(
                PodSpec(
                    node_name=self.part(spec.node_name),
                    service_account_name=self.part(spec.service_account_name),
                    host_network=spec.host_network,
                    containers=self.part(named),
                )
            ),
            status=PodStatus(
                phase=self.part(status.phase),
                pod_ip=status.pod_ip,
                pod_ips=addresses,
                conditions=self.part(tuple(c for c in status.conditions if c.type == "Ready")),
            ),
        )

    def _slice(self, item: EndpointSliceObject) -> EndpointSliceObject:
        return EndpointSliceObject(
            metadata=self._metadata(item.metadata),
            address_type=self.part(item.address_type),
            endpoints=tuple(
                SliceEndpoint(
                    addresses=endpoint.addresses,
                    conditions=self.part(endpoint.conditions),
                    target_ref=self._target(endpoint.target_ref),
                )
                for endpoint in item.endpoints
            ),
            ports=self.part(item.ports),
        )

    def _target(self, target: TargetObject | None) -> TargetObject | None:
        if target is None:
            return None
        return TargetObject(
            kind=self.part(target.kind), name=target.name, namespace=self.part(target.namespace)
        )


def _needed(annotations: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: text
        for name, text in annotations.items()
        if name.partition("/")[0].endswith(("meshnode.io", "istio.io")) and name not in _NOT_READ
    }
