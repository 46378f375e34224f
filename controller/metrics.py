"""What the controller says of itself to Prometheus, read at scrape time."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.identity.host import CaHost
from mesh.telemetry import names
from mesh.telemetry.families import family

_RESULTS = ("issued", "refused")
_FINGERPRINT_BYTES = 8


def controller_registry(host: CaHost) -> CollectorRegistry:
    """Metrics of the certificate authority and of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(CaCollector(host))
    return registry


class CaCollector(Collector):
    """Asks the authority whenever it is scraped."""

    def __init__(self, host: CaHost) -> None:
        self._host = host

    def describe(self) -> list[Metric]:
        return [family(spec, ()) for spec in names.CONTROLLER_METRICS]

    def collect(self) -> Iterator[Metric]:
        answers = self._host.answers
        yield family(names.CERTIFICATES, (((one,), answers.get(one, 0)) for one in _RESULTS))
        yield family(names.CA_PROBLEM, [((), 1.0 if self._host.problem else 0.0)])
        yield family(names.CA_ROOT_EXPIRY, self._roots())

    def _roots(self) -> Iterator[tuple[tuple[str, ...], float]]:
        pem = self._host.authority.bundle().bundle.roots_pem
        for root in x509.load_pem_x509_certificates(pem):
            digest = root.fingerprint(SHA256()).hex()[: 2 * _FINGERPRINT_BYTES]
            yield (digest,), root.not_valid_after_utc.timestamp()
