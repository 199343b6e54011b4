"""Metrics for Prometheus. Labels hold names that the server was started with, never what a client sent."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kblam.serve.bases import Base
from kblam.serve.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# The label of what concerns no knowledge base.
NO_BASE = ""


class Metrics:
    """The metrics of one server.

    Args:
        engine: whose queue and memory are told, and its own metrics after these.
        bases: all that are served.
    """

    def __init__(self, engine: Engine, bases: Iterable[Base]) -> None:
        self._engine = engine
        self.registry = registry = CollectorRegistry()
        of_base = ["knowledge_base"]
        self._requests = Counter(
            "kblam_requests", "Requests answered", ["endpoint", *of_base, "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "kblam_request_seconds",
            "Seconds of a request, until its last byte",
            ["endpoint", *of_base],
            buckets=_SECONDS,
            registry=registry,
        )
        self._refusals = Counter(
            "kblam_refusals", "Questions that the knowledge base does not answer", of_base, registry=registry
        )
        self._tokens = Counter(
            "kblam_tokens", "Tokens of prompts and of answers", [*of_base, "kind"], registry=registry
        )
        self._update_seconds = Histogram(
            "kblam_update_seconds",
            "Seconds of a change, encoding included",
            of_base,
            buckets=_SECONDS,
            registry=registry,
        )
        waiting = Gauge("kblam_waiting_requests", "Requests in the queue", registry=registry)
        waiting.set_function(engine.waiting)
        size = Gauge("kblam_knowledge_bytes", "Bytes of knowledge on the device", of_base, registry=registry)
        for one in bases:
            size.labels(one.place.label).set_function(functools.partial(engine.knowledge_bytes, one))

    def request(self, endpoint: str, label: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(endpoint, label, str(status)).inc()
        self._request_seconds.labels(endpoint, label).observe(seconds)

    def answer(self, label: str, prompt_tokens: int, answer_tokens: int, *, refused: bool) -> None:
        """An answer is whole."""
        self._tokens.labels(label, "prompt").inc(prompt_tokens)
        self._tokens.labels(label, "answer").inc(answer_tokens)
        if refused:
            self._refusals.labels(label).inc()

    def update(self, label: str, seconds: float) -> None:
        """A knowledge base was changed."""
        self._update_seconds.labels(label).observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry) + self._engine.metrics()
