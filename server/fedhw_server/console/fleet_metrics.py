"""What Prometheus may see of the fleet: counts, durations, and figures of a large enough cohort."""

import asyncio
import collections
import threading
from collections.abc import Iterator, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fedhw import __version__
from fedhw.improvement.attempt import ENDS, IN_FLIGHT, Attempt
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.statistics import LATENCIES
from fedhw.release.registry import Registry
from fedhw_server.fronts.statistics_service import REASONS, Watcher
from fedhw_server.leader.supervisor import Part
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.member_counts import MemberCounts

REPORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
ROUND_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
"""Bounds of the histograms."""


class Metrics(Watcher):
    """The metrics of one coordinator."""

    def __init__(self, fleet: Fleet, registry: Registry, parts: Sequence[Part]) -> None:
        self._turn = threading.Lock()  # rounds are counted when somebody looks
        self._exposed = CollectorRegistry()
        self._accepted = Counter(
            "fedhw_reports_accepted",
            "Reports that were counted, each again when it was sent again.",
            registry=self._exposed,
        )
        self._refused = Counter(
            "fedhw_reports_refused",
            "Reports that were not counted.",
            ["reason"],
            registry=self._exposed,
        )
        for reason in REASONS:
            self._refused.labels(reason)
        self._seconds = Histogram(
            "fedhw_report_seconds",
            "Time from a report's arrival until it was durable.",
            buckets=REPORT_SECONDS,
            registry=self._exposed,
        )
        self._exposed.register(_FleetCollector(fleet, registry, parts))
        self._exposed.register(_RoundCollector(fleet))
        self._exposed.register(_ImprovementCollector(fleet, registry))

    def accepted(self, seconds: float) -> None:
        """Count a report."""
        self._accepted.inc()
        self._seconds.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a report that is refused."""
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        with self._turn:
            return generate_latest(self._exposed)


class _FleetCollector(Collector):
    """Reads what the fleet's database says when it is asked for."""

    def __init__(self, fleet: Fleet, registry: Registry, parts: Sequence[Part]) -> None:
        self._fleet = fleet
        self._registry = registry
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        yield from self._devices()
        yield from self._coordinator()
        yield from self._statistics()

    def _devices(self) -> Iterator[Metric]:
        devices, latest = self._fleet.members.all(), self._registry.latest
        counts = MemberCounts.of(devices, latest, self._fleet.clock.wall())
        gauges = {
            "enrolled": ("Devices that may take part.", counts.enrolled),
            "online": ("Devices that are connected.", counts.online),
            "revoked": ("Devices that were sent away.", counts.revoked),
            "held_back": (
                "Devices that keep an older release, since the newest is worse for them.",
                counts.held_back,
            ),
            "refused": ("Devices that could not take the newest release.", counts.refused),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"fedhw_devices_{name}", meaning, value=value)
        running = GaugeMetricFamily(
            "fedhw_devices_on_release", "Devices by the release they run.", labels=["release"]
        )
        known = {manifest.name for manifest in self._registry.versions()}
        enrolled = (device.running for device in devices if device.state == "enrolled")
        for release, number in collections.Counter(enrolled).items():
            if release in known:
                running.add_metric([release], number)
        yield running

    def _coordinator(self) -> Iterator[Metric]:
        policy = self._fleet.policy
        latest = self._registry.latest
        gauges = {
            "release_version": ("The newest release.", latest.version if latest else 0),
            "paused": ("1 while no release is offered.", self._fleet.settings.is_paused),
            "report_epsilon": ("What a report costs a device.", policy.epsilon),
            "report_delta": ("What a report costs a device.", policy.delta),
            "report_window_seconds": ("What a report covers.", policy.window),
            "minimum_cohort_devices": ("Fewer are not shown.", policy.minimum_cohort),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"fedhw_{name}", meaning, value=value)
        up = GaugeMetricFamily("fedhw_part_up", "1 while a part runs.", labels=["part"])
        restarts = CounterMetricFamily(
            "fedhw_part_restarts", "How often a part was started again.", labels=["part"]
        )
        for part in self._parts:
            up.add_metric([part.name], part.is_up)
            restarts.add_metric([part.name], part.restarts)
        yield up
        yield restarts
        build = GaugeMetricFamily("fedhw_build_info", "The program.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _statistics(self) -> Iterator[Metric]:
        latest = self._registry.latest
        found = self._fleet.reports.estimates(len(latest.labels)) if latest is not None else None
        if found is None:
            return
        mean = GaugeMetricFamily(
            "fedhw_statistic_mean", "Estimated mean over the devices.", labels=["statistic"]
        )
        error = GaugeMetricFamily(
            "fedhw_statistic_standard_error", "Standard error of the mean.", labels=["statistic"]
        )
        latency = GaugeMetricFamily(
            "fedhw_statistic_latency_share",
            "Estimated share of recognitions by the seconds they took at most.",
            labels=["bucket"],
        )
        bounds = [*map(str, LATENCIES), "+Inf"]
        for estimate in found.estimates:
            if estimate.entry is None:
                mean.add_metric([estimate.name], estimate.mean)
                error.add_metric([estimate.name], estimate.standard_error)
            elif estimate.name == "latency_share":
                latency.add_metric([bounds[estimate.entry]], estimate.mean)
        yield mean
        yield error
        yield latency
        yield GaugeMetricFamily(
            "fedhw_statistic_cohort_devices", "Devices behind the estimates.", value=found.cohort
        )
        yield GaugeMetricFamily(
            "fedhw_statistic_window_timestamp_seconds",
            "When the window of the estimates ended.",
            value=found.ended,
        )


class _RoundCollector(Collector):
    """Counts the rounds that the ServerApp has written down, each once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # Of this start only: a counter that began with all that is kept would seem to leap.
        self._seen = max((each.number for each in fleet.offer_log.all()), default=0)
        self._own = CollectorRegistry()
        self._rounds = Counter("fedhw_rounds", "Rounds of offers.", ["outcome"], registry=self._own)
        for outcome in ("answered", "abandoned"):
            self._rounds.labels(outcome)
        self._seconds = Histogram(
            "fedhw_round_seconds",
            "Time until everybody answered, or the deadline.",
            buckets=ROUND_SECONDS,
            registry=self._own,
        )
        self._last = 0.0

    def collect(self) -> Iterator[Metric]:
        """Yield the counts after a look at the newest rounds."""
        rounds = self._fleet.offer_log.all(self._seen)
        for each in rounds:
            if each.seconds is None and each is rounds[-1]:
                break  # it runs; an earlier one without an end was cut off
            answered = each.answered == each.asked
            self._rounds.labels("answered" if answered else "abandoned").inc()
            if each.seconds is not None:
                self._seconds.observe(each.seconds)
                self._last = each.began + each.seconds
            self._seen = each.number
        yield from self._own.collect()
        yield GaugeMetricFamily(
            "fedhw_round_last_timestamp_seconds", "When the newest round ended.", value=self._last
        )


class _ImprovementCollector(Collector):
    """Reads what became of the attempts to improve; they are kept, so their counts go on."""

    def __init__(self, fleet: Fleet, registry: Registry) -> None:
        self._fleet = fleet
        self._registry = registry
        self._attempts = fleet.attempts

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        attempts, latest = self._attempts.all(), self._registry.latest
        yield from self._counts(attempts)
        rho, delta = self._attempts.rho, self._fleet.policy.delta
        gauges = {
            "improvements_epsilon": (
                "What all rounds have cost the device that was in most, at the delta of reports.",
                epsilon_of(rho, delta),
            ),
            "release_share": (
                "The share of the devices that the newest release is for.",
                self._attempts.roll_out(latest).share if latest else 1.0,
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"fedhw_{name}", meaning, value=value)
        decided = GaugeMetricFamily(
            "fedhw_improvement_decision_timestamp_seconds",
            "When the newest decision was made.",
            labels=["decision"],
        )
        made = [(last.decision, last.moment) for last in self._attempts.decisions(1)]
        for decision, moment in made or [("none", 0.0)]:
            decided.add_metric([decision], moment)
        yield decided

    def _counts(self, attempts: Sequence[Attempt]) -> Iterator[Metric]:
        stages = collections.Counter(attempt.stage for attempt in attempts)
        stage = GaugeMetricFamily(
            "fedhw_improvement_stage", "1 at the stage of the attempt in flight.", labels=["stage"]
        )
        for name in IN_FLIGHT:
            stage.add_metric([name], stages[name])
        yield stage
        ended = CounterMetricFamily(
            "fedhw_improvements", "Attempts to improve that have ended.", labels=["outcome"]
        )
        for name in ENDS:
            ended.add_metric([name], stages[name])
        yield ended
        done, abandoned = self._attempts.round_counts
        counted = CounterMetricFamily(
            "fedhw_improvement_rounds", "Rounds of all attempts.", labels=["outcome"]
        )
        counted.add_metric(["done"], done)
        counted.add_metric(["abandoned"], abandoned)
        yield counted
        last = self._attempts.last_round
        yield GaugeMetricFamily(
            "fedhw_improvement_round_devices",
            "Devices in the sum of the last round.",
            value=0 if last is None else last.summed,
        )
        yield GaugeMetricFamily(
            "fedhw_improvement_round_within_ratio",
            "Noised share of them whose update was within the radius.",
            value=0 if last is None else last.within,
        )


def metrics_pages(metrics: Metrics) -> Starlette:
    """The application of `/metrics` and `/healthz`."""

    async def show(_: Request) -> Response:
        text = await asyncio.to_thread(metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", show), Route("/healthz", healthy)])
