"""Every metric of the worker in one place.

One process serves them, so they are plain prometheus_client objects in a registry of their own. Base units, `_total` on
counters, and never a document's id in a label. What only Redis knows (depths, ages) is asked when Prometheus asks.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gpner.errors import ServiceError
from worker.devices import device_memory_bytes
from worker.outcomes import FailureReason
from worker.queue import DocumentQueue

logger = logging.getLogger(__name__)

# From half a millisecond, a commit, to minutes, a batch of long documents on a CPU.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# A document may wait for hours behind a corpus.
LONG_SECONDS = (*SECONDS, 900, 3600, 14400, 86400)
DOCUMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 1048576)
WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
SCORES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Metrics:
    """The worker's metrics, each under its own name."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        self.registry = CollectorRegistry()
        self._count_documents(self.registry)
        self._count_batches(self.registry)
        self._describe_worker(self.registry)

    def _count_documents(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "gpner_documents_total",
            "Documents that ended here. outcome is done, failed (reason says why; a dead letter keeps each) or "
            "taken_over (another worker finished it first, and counts it).",
            ["outcome", "reason"],
            registry=registry,
        )
        # A counter that first appears at 1 has, to Prometheus, not grown.
        self.documents.labels("done", "")
        self.documents.labels("taken_over", "")
        for reason in get_args(FailureReason):
            self.documents.labels("failed", reason)
        self.tokens = Counter(
            "gpner_tokens_total", "Tokens of documents that were done; each counts once.", registry=registry
        )
        self.entities = Counter(
            "gpner_entities_total", "Entities in results, by label, after a document's own filter.", ["label"],
            registry=registry,
        )  # fmt: skip
        self.entity_scores = BatchHistogram(
            "gpner_entity_score", "Scores of entities in results, by label.", SCORES, label="label", registry=registry
        )
        self.stages = BatchHistogram(
            "gpner_stage_duration_seconds",
            "Time in each stage. queue: from enqueueing to reading. batch: from tokenized to the start of its forward. "
            "Both once per document. tokenize, forward, decode, commit: once per group of documents.",
            LONG_SECONDS,
            label="stage",
            registry=registry,
        )
        for stage in ("queue", "tokenize", "batch", "forward", "decode", "commit"):
            self.stages.add((), stage)
        self.document_duration = BatchHistogram(
            "gpner_document_duration_seconds",
            "Time from enqueueing a document to having its result ready to commit.",
            LONG_SECONDS,
            registry=registry,
        )
        self.document_tokens = BatchHistogram(
            "gpner_document_tokens", "Tokens of each document that was done.", TOKENS, registry=registry
        )
        self.document_windows = BatchHistogram(
            "gpner_document_windows",
            "Windows in which each document that was done was read; more than one where it is longer than the model's "
            "context.",
            WINDOWS,
            registry=registry,
        )

    def _count_batches(self, registry: CollectorRegistry) -> None:
        self.batch_documents = Histogram(
            "gpner_batch_documents", "Documents in each batch.", buckets=DOCUMENTS, registry=registry
        )
        self.batch_tokens = Histogram(
            "gpner_batch_tokens", "Tokens in each batch, special tokens included.", buckets=TOKENS, registry=registry
        )
        self.batch_fill_ratio = Histogram(
            "gpner_batch_fill_ratio",
            "Tokens of each batch as a share of what it may hold. Low under load means that the device starves.",
            buckets=RATIOS,
            registry=registry,
        )
        self.redelivered = Counter(
            "gpner_redelivered_total",
            "Documents taken over from a worker that went silent. More than a few mean that workers die.",
            registry=registry,
        )
        self.out_of_memory = Counter(
            "gpner_out_of_memory_total", "Forwards that ran out of the device's memory.", registry=registry
        )
        self.model_flops = Counter(
            "gpner_model_flops_total",
            "Floating-point operations that the model needed for what it read. Its rate, over the device's peak, says "
            "how well it is used.",
            registry=registry,
        )
        self.device_peak_flops = Gauge(
            "gpner_device_peak_flops",
            "Floating-point operations a second that the device did on large matrix products when the model was "
            "loaded; 0 if the engine does not say.",
            registry=registry,
        )

    def _describe_worker(self, registry: CollectorRegistry) -> None:
        Info("gpner_worker", "The release of gpner that this worker runs.", registry=registry).info(
            {"version": version("gpner")}
        )
        ProcessCollector(namespace="gpner", registry=registry)
        self.model_info = Info(
            "gpner_model", "The model that this worker serves, its revision, and its device.", registry=registry
        )
        self.in_flight = Gauge(
            "gpner_documents_in_flight", "Documents between their reading and their commit.", registry=registry
        )
        self.max_batch_tokens = Gauge(
            "gpner_max_batch_tokens",
            "The most tokens in a batch at present: what was set or found, less after the device ran out of memory.",
            registry=registry,
        )
        Gauge(
            "gpner_device_memory_bytes",
            "Memory this process holds on its device: reserved on a GPU, resident on a CPU.",
            registry=registry,
        ).set_function(device_memory_bytes)

    def measure_worker(self, *, in_flight: Callable[[], int], max_batch_tokens: Callable[[], int]) -> None:
        """Take the gauges of the worker's state from it whenever they are asked for."""
        self.in_flight.set_function(in_flight)
        self.max_batch_tokens.set_function(max_batch_tokens)

    def expect_labels(self, labels: Iterable[str]) -> None:
        """Count what a model may find from 0, so that a label that is found no more is seen to be missing."""
        for label in labels:
            self.entities.labels(label)
            self.entity_scores.add((), label)

    def measure_queue(self, queue: DocumentQueue, *, reading: Callable[[], bool]) -> None:
        """Take the queue's gauges from Redis whenever they are asked for, and say whether documents are taken."""
        self.registry.register(QueueCollector(queue, reading))


class BatchHistogram(Collector):
    """A histogram that takes the observations of many documents at once.

    prometheus_client's own takes them one by one, at four times the cost, and there are tens of thousands a second.

    Args:
        name: The metric's name.
        documentation: What it measures.
        buckets: Upper bounds, rising, without infinity.
        label: The name of its one label; None for none.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        *,
        label: str | None = None,
        registry: CollectorRegistry | None,
    ) -> None:
        self._family = partial(HistogramMetricFamily, name, documentation, labels=[label] if label else None)
        self._buckets = buckets
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._changing = threading.Lock()
        if label is None:
            self.add(())
        if registry is not None:
            registry.register(self)

    def add(self, observations: Collection[float], value: str = "") -> None:
        """Count observations of one value of the label."""
        with self._changing:
            counts = self._counts.setdefault(value, [0] * (len(self._buckets) + 1))
            for observation in observations:
                counts[bisect_left(self._buckets, observation)] += 1
            self._sums[value] = self._sums.get(value, 0.0) + sum(observations)

    def describe(self) -> list[Metric]:
        """Name the metric without its values."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        """The counts so far."""
        family = self._family()
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        with self._changing:
            for value, counts in self._counts.items():
                at_most = list(zip(bounds, accumulate(counts), strict=True))
                family.add_metric([value] if value else [], at_most, self._sums[value])
        yield family


class QueueCollector(Collector):
    """Asks Redis for depths and ages at each scrape. While Redis is away they are absent, not stale.

    It asks no more after a question without an answer: two waits for a silent Redis are longer than a scrape may last.

    Args:
        queue: What is measured.
        reading: Whether the worker would take documents.
    """

    def __init__(self, queue: DocumentQueue, reading: Callable[[], bool]) -> None:
        self._queue = queue
        self._reading = reading

    def describe(self) -> list[Metric]:
        """Name the metrics without asking Redis."""
        return list(queue_families())

    def collect(self) -> Iterator[Metric]:
        """Measure the queue."""
        ready, depth, oldest_age, dead_letters = queue_families()
        answers = False
        try:
            self._queue.ping()
            answers = True
            for stream, documents in self._queue.depth().items():
                depth.add_metric([stream], documents)
                oldest_age.add_metric([stream], self._queue.oldest_age_seconds(stream))
            dead_letters.add_metric([], self._queue.dead_letters())
        except ServiceError as error:
            logger.debug("no queue metrics in this scrape: %s", error)
        else:
            yield from (depth, oldest_age, dead_letters)
        ready.add_metric([], float(answers and self._reading()))
        yield ready


def queue_families() -> list[GaugeMetricFamily]:
    """The metrics that need Redis, without their values."""
    return [
        GaugeMetricFamily(
            "gpner_ready",
            "1 if the model is warm, Redis answers, and the worker is neither paused nor reloading nor draining.",
        ),
        GaugeMetricFamily(
            "gpner_queue_depth", "Documents accepted and not yet finished, by stream.", labels=["stream"]
        ),
        GaugeMetricFamily(
            "gpner_queue_oldest_age_seconds",
            "Age of the oldest unfinished document, by stream; 0 if there is none.",
            labels=["stream"],
        ),
        GaugeMetricFamily("gpner_dead_letters", "Failed documents kept in the dead letters."),
    ]
