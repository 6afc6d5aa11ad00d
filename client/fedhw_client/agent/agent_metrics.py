"""Prometheus metrics of an agent: counts and durations, no content."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedhw.privacy.statistics import LATENCIES
from fedhw_client.agent.agent import Agent


class Metrics:
    """The metrics of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(agent))
        latency = Histogram(
            "fedhw_device_recognition_seconds",
            "Time from a request's arrival to its answer.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        self.observe = latency.observe

    def serve(self, port: int) -> int:
        """Serve Prometheus text on loopback; returns the port, a free one for 0.

        Raises OSError when the port is taken.
        """
        server, _ = start_http_server(port, addr="127.0.0.1", registry=self._registry)
        return int(server.server_port)


class _StatusCollector(Collector):
    """Reads the agent's status on each scrape."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        status = self._agent.status()
        counters = {
            "recognitions": ("Observations recognised since the start.", status.recognitions),
            "corrections": ("Corrections since the first start.", status.corrections),
            "learnings": ("Learnings since the start.", status.learnings),
            "learning_seconds": ("Processor time of learning.", status.learning_seconds),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(f"fedhw_device_{name}", meaning, value=value)
        gauges = {
            "kept": ("Corrections that are kept.", status.kept),
            "store_bytes": ("Bytes of the store on disk.", status.store_bytes),
            "personal_version": ("Mixtures learned so far.", status.personal_version),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"fedhw_device_{name}", meaning, value=value)
        release = GaugeMetricFamily(
            "fedhw_device_release_info", "The release in use.", labels=["release"]
        )
        release.add_metric([status.release], 1)
        yield release
