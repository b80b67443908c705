"""Metrics: counts and coarse times, in a registry of our own.

Metrics are one more output channel. So there is nothing per client or key, no sizes, and latency
only by powers of ten: enough to see an outage, too coarse to time one request by.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

OUTCOMES = ("ok", "refused", "busy", "failed")
NO_MODEL = "-"  # requests that name no model of ours share one label: no growth by guessing
_BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0)


class Metrics:
    """Counters by model and outcome, a latency histogram by model, and readiness."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "reticent_requests",
            "Inference requests by outcome.",
            ("model", "outcome"),
            registry=self._registry,
        )
        seconds = Histogram(
            "reticent_request_seconds",
            "Time from request to reply, answered requests only.",
            ("model",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._ready = Gauge("reticent_ready", "1 after warm-up.", registry=self._registry)
        names = [*models, NO_MODEL]
        self._requests = {
            (name, outcome): requests.labels(name, outcome)
            for name in names
            for outcome in OUTCOMES
        }
        self._seconds = {name: seconds.labels(name) for name in names}

    def answered(self, model: str, seconds: float) -> None:
        """Count one answered request."""
        self._requests[model, "ok"].inc()
        self._seconds[model].observe(seconds)

    def refused(self, model: str, outcome: str) -> None:
        """Count one request that wasn't answered."""
        known = model if (model, outcome) in self._requests else NO_MODEL
        self._requests[known, outcome].inc()

    def ready(self, is_ready: bool) -> None:
        """Say whether the service is ready."""
        self._ready.set(is_ready)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
