"""Metrics: counts and coarse times, rendered for Prometheus.

Metrics are one more output channel. So there is nothing per client or key, no sizes, and latency
only by powers of ten, without the sum that a Prometheus histogram usually has: two scrapes around
one request would read its exact time off it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

OUTCOMES = ("ok", "refused", "busy", "failed")
NO_MODEL = "-"  # requests that name no model of ours share one label: no growth by guessing
_BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0)


class Metrics(Collector):
    """Counters by model and outcome, latency buckets by model, and readiness.

    Kept as plain numbers by the event loop's thread, and given Prometheus's form when scraped:
    its own counters lock and check at each request, which costs as much as decoding one.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Iterable[str]) -> None:
        names = [*models, NO_MODEL]
        self._requests = {(name, outcome): 0 for name in names for outcome in OUTCOMES}
        self._seconds = {name: [0] * (len(_BUCKETS) + 1) for name in names}
        self._is_ready = False
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self, model: str, seconds: float) -> None:
        """Count one answered request."""
        self._requests[model, "ok"] += 1
        self._seconds[model][bisect_left(_BUCKETS, seconds)] += 1

    def refused(self, model: str, outcome: str) -> None:
        """Count one request that wasn't answered."""
        known = model if (model, outcome) in self._requests else NO_MODEL
        self._requests[known, outcome] += 1

    def ready(self, is_ready: bool) -> None:
        """Say whether the service is ready."""
        self._is_ready = is_ready

    def collect(self) -> Iterator[Metric]:
        """The metrics, as Prometheus's registry asks for them."""
        requests = CounterMetricFamily(
            "reticent_requests", "Inference requests by outcome.", labels=("model", "outcome")
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        seconds = HistogramMetricFamily(
            "reticent_request_seconds", "Time of answered requests.", labels=("model",)
        )
        bounds = [*map(str, _BUCKETS), "+Inf"]
        for model, counts in self._seconds.items():
            cumulated = zip(bounds, map(float, accumulate(counts)), strict=True)
            seconds.add_metric((model,), list(cumulated), sum_value=None)
        ready = GaugeMetricFamily("reticent_ready", "1 after warm-up.", value=self._is_ready)
        yield from (requests, seconds, ready)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
