"""What the router counts, and its Prometheus text. A count is a few dictionary look-ups; everything else waits for a scrape.

Labels are bounded: workflow names come from the directory, unknown ones are never labels, and beyond
`MAX_WORKFLOWS` different ones further names are counted as `other`; keys are those that are or were configured, by their id.
Belongs to the router's event loop.

Replicas of the router that share a port are scraped by chance, one or the other: every series says with the label
`replica` whose it is, so that none looks as if it went backwards. Sum over it; a replica that is gone adds nothing more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from deployments.client import Timing
from deployments.router.directory import Entry

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_WORKFLOWS: Final = 512
MAX_KEYS: Final = 1024
_DIRECTIONS: Final = ("prompt", "completion", "cut")
SECONDS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
ITEMS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, float]]:
        running, buckets = 0, []
        for bound, count in zip((*map(floatToGoString, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets


class _PerWorkflow:
    __slots__ = ("batch", "by_size", "falls", "model", "queue", "tokens")

    def __init__(self) -> None:
        self.queue = _Histogram(SECONDS)
        self.model = _Histogram(SECONDS)
        self.batch = _Histogram(ITEMS)
        self.by_size: dict[int, tuple[int, float]] = {}  # items in batches of up to so many, and the model's seconds
        self.tokens: dict[str, list[int]] = {}  # by key: as in _DIRECTIONS
        self.falls: dict[str, int] = {}  # by the workflow that answered in its place


class Metrics(Collector):
    """The router's counters.

    Args:
        replica: A short id of this replica, the same for as long as it lives.
        entries: The workflows whose state is shown.
    """

    def __init__(self, replica: str = "0", entries: Iterable[Entry] = ()) -> None:
        self._replica = replica
        self._entries = entries
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._requests: dict[tuple[str, str, str], int] = {}
        self._latency: dict[tuple[str, str], _Histogram] = {}
        self._workflows: dict[str, _PerWorkflow] = {}

    def observe_request(self, protocol: str, workflow: str, code: str, seconds: float) -> None:
        """One answered request: `code` is `ok` or an error's code; `workflow` a name of the directory or empty."""
        if workflow:
            self._of(workflow)
            if workflow not in self._workflows:
                workflow = "other"
        requests = self._requests
        counted = (protocol, workflow, code)
        requests[counted] = requests.get(counted, 0) + 1
        timed = (protocol, workflow)
        latency = self._latency.get(timed)
        if latency is None:
            latency = self._latency[timed] = _Histogram(SECONDS)
        latency.add(seconds)

    def observe_outcome(self, workflow: str, timing: Timing) -> None:
        """Where one item's time went in its replica. Items that never ran have no batch and no model time."""
        found = self._of(workflow)
        found.queue.add(timing.queue_s)
        if timing.batch_size:
            found.model.add(timing.model_s)
            found.batch.add(timing.batch_size)
            size = 1 << (timing.batch_size - 1).bit_length()
            items, seconds = found.by_size.get(size, (0, 0.0))
            found.by_size[size] = items + 1, seconds + timing.model_s / timing.batch_size

    def tokens(self, workflow: str, key: str, prompt: int, completion: int, cut: int = 0) -> None:
        """What an answer took. `cut`: tokens, at the least, of one that was not finished, so that it did not say."""
        by_key = self._of(workflow).tokens
        if key not in by_key and len(by_key) >= MAX_KEYS:
            key = "other"
        counted = by_key.setdefault(key, [0, 0, 0])
        counted[0] += prompt
        counted[1] += completion
        counted[2] += cut

    def fell(self, workflow: str, to: str) -> None:
        """Another workflow has answered in the place of this one."""
        falls = self._of(workflow).falls
        falls[to] = falls.get(to, 0) + 1

    def exposition(self) -> bytes:
        """Everything as Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            for sample in family.samples:
                sample.labels["replica"] = self._replica
            yield family

    def _families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "infernet_requests", "Requests by outcome: ok or an error's class.", labels=["protocol", "workflow", "code"]
        )
        for counted, count in self._requests.items():
            requests.add_metric(counted, count)
        yield requests
        errors = CounterMetricFamily(
            "infernet_errors", "Requests that did not end well.", labels=["protocol", "workflow", "code"]
        )
        for counted, count in self._requests.items():
            if counted[2] != "ok":
                errors.add_metric(counted, count)
        yield errors
        latency = HistogramMetricFamily(
            "infernet_request_seconds",
            "From a request's head to the end of its answer.",
            labels=["protocol", "workflow"],
        )
        for timed, histogram in self._latency.items():
            latency.add_metric(timed, histogram.cumulated(), histogram.total)
        yield latency
        yield from self._collect_workflows()
        yield from self._collect_entries()

    def _collect_workflows(self) -> Iterator[Metric]:
        queue = HistogramMetricFamily("infernet_queue_seconds", "An item's wait in its replica.", labels=["workflow"])
        model = HistogramMetricFamily("infernet_model_seconds", "The model's time for a batch.", labels=["workflow"])
        batch = HistogramMetricFamily("infernet_batch_items", "Items in an item's batch.", labels=["workflow"])
        sized = CounterMetricFamily(
            "infernet_batched_items", "Items that ran in batches of up to `size`.", labels=["workflow", "size"]
        )
        shares = CounterMetricFamily(
            "infernet_batched_seconds",
            "The model's time for those items: divided by their number it falls with `size` where batching pays.",
            labels=["workflow", "size"],
        )
        tokens = CounterMetricFamily(
            "infernet_tokens",
            "Tokens read (prompt) and made (completion), by the id of the caller's key; and of answers that broke off or were "
            "left before they said how many they were, how many had come at least (cut).",
            labels=["workflow", "key", "direction"],
        )
        falls = CounterMetricFamily(
            "infernet_fallbacks", "Answers of another workflow, in the place of this one.", labels=["workflow", "to"]
        )
        for name, found in self._workflows.items():
            queue.add_metric([name], found.queue.cumulated(), found.queue.total)
            model.add_metric([name], found.model.cumulated(), found.model.total)
            batch.add_metric([name], found.batch.cumulated(), found.batch.total)
            for size, (items, seconds) in sorted(found.by_size.items()):
                sized.add_metric([name, str(size)], items)
                shares.add_metric([name, str(size)], seconds)
            for key, counted in found.tokens.items():
                for direction, count in zip(_DIRECTIONS, counted, strict=True):
                    tokens.add_metric([name, key, direction], count)
            for to, count in found.falls.items():
                falls.add_metric([name, to], count)
        yield from (queue, model, batch, sized, shares, tokens, falls)

    def _collect_entries(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily("infernet_workflow_replicas", "Replicas that run.", labels=["workflow"])
        lanes = GaugeMetricFamily("infernet_workflow_lanes", "Replicas with an open local lane.", labels=["workflow"])
        waiting = GaugeMetricFamily(
            "infernet_workflow_waiting", "Requests not sent to a replica yet.", labels=["workflow"]
        )
        inflight = GaugeMetricFamily(
            "infernet_workflow_inflight", "Requests and streams unanswered.", labels=["workflow"]
        )
        for entry in islice(self._entries, MAX_WORKFLOWS):
            replicas.add_metric([entry.name], entry.replicas)
            lanes.add_metric([entry.name], entry.lanes)
            waiting.add_metric([entry.name], entry.dispatcher.waiting)
            inflight.add_metric([entry.name], entry.dispatcher.load)
        yield from (replicas, lanes, waiting, inflight)

    def _of(self, workflow: str) -> _PerWorkflow:
        found = self._workflows.get(workflow)
        if found is None:
            if len(self._workflows) >= MAX_WORKFLOWS:
                workflow = "other"
            found = self._workflows.setdefault(workflow, _PerWorkflow())
        return found
