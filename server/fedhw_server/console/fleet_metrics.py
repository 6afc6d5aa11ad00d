"""Prometheus metrics of a coordinator: counts, durations, and statistics of large cohorts."""

import asyncio
import threading
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
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
from fedhw.improvement.attempt import ENDS, IN_FLIGHT
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.statistics import LATENCIES
from fedhw.release.registry import Registry
from fedhw_server.fronts.statistics_service import REASONS, Watcher
from fedhw_server.leader.supervisor import Part
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import MemberCounts

REPORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
ROUND_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
"""Upper bounds of the histograms' buckets."""


class Metrics(Watcher):
    """The metrics of one coordinator."""

    def __init__(self, fleet: Fleet, registry: Registry, parts: Sequence[Part]) -> None:
        self._fleet = fleet
        self._turn = threading.Lock()
        self._exposed = exposed = CollectorRegistry()
        self._accepted = Counter(
            "fedhw_reports_accepted",
            "Reports that were counted; one that is sent twice counts twice.",
            registry=exposed,
        )
        self._refused = Counter(
            "fedhw_reports_refused", "Reports that were not counted.", ["reason"], registry=exposed
        )
        self._seconds = Histogram(
            "fedhw_report_seconds",
            "Time from a report's arrival until it was durable.",
            buckets=REPORT_SECONDS,
            registry=exposed,
        )
        self._rounds = Counter(
            "fedhw_rounds", "Offers to the devices online.", ["outcome"], registry=exposed
        )
        self._round_seconds = Histogram(
            "fedhw_round_seconds",
            "Time until every device answered, or the deadline.",
            buckets=ROUND_SECONDS,
            registry=exposed,
        )
        self._last_round = Gauge(
            "fedhw_round_last_timestamp_seconds", "When the newest round ended.", registry=exposed
        )
        for reason in REASONS:
            self._refused.labels(reason)
        for outcome in ("answered", "abandoned"):
            self._rounds.labels(outcome)
        # A counter starts at 0 with the process, so rounds before this start do not count.
        self._seen = max((each.number for each in fleet.offer_log.all()), default=0)
        exposed.register(_FleetCollector(fleet, registry, parts))

    def accepted(self, seconds: float) -> None:
        """Count a report."""
        self._accepted.inc()
        self._seconds.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a report that is refused."""
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        with self._turn:
            self._count_rounds()
            return generate_latest(self._exposed)

    def _count_rounds(self) -> None:
        """Count the rounds that the ServerApp has written down since the last look."""
        rounds = self._fleet.offer_log.all(self._seen)
        for each in rounds:
            if each.seconds is None and each is rounds[-1]:
                break  # in flight; an earlier one without an end was cut off
            answered = each.answered == each.asked
            self._rounds.labels("answered" if answered else "abandoned").inc()
            if each.seconds is not None:
                self._round_seconds.observe(each.seconds)
                self._last_round.set(each.began + each.seconds)
            self._seen = each.number


class _FleetCollector(Collector):
    """Reads the fleet's database on each scrape."""

    def __init__(self, fleet: Fleet, registry: Registry, parts: Sequence[Part]) -> None:
        self._fleet = fleet
        self._registry = registry
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield from self._devices()
        yield from self._coordinator()
        yield from self._statistics()
        yield from self._improvements()

    def _devices(self) -> Iterator[Metric]:
        devices, latest = self._fleet.members.all(), self._registry.latest
        counts = MemberCounts.of(devices, latest, self._fleet.clock.wall())
        yield _gauge("devices_enrolled", "Devices that may take part.", counts.enrolled)
        yield _gauge("devices_online", "Devices that are connected.", counts.online)
        yield _gauge("devices_revoked", "Devices that were revoked.", counts.revoked)
        yield _gauge(
            "devices_held_back",
            "Devices that keep an older release, since the newest is worse for them.",
            counts.held_back,
        )
        yield _gauge(
            "devices_refused", "Devices that could not take the newest release.", counts.refused
        )
        known = {manifest.name for manifest in self._registry.versions()}
        running = Tally(d.running for d in devices if d.state == "enrolled" and d.running in known)
        meaning = "Devices by the release they run."
        yield _gauges("devices_on_release", meaning, "release", running)

    def _coordinator(self) -> Iterator[Metric]:
        policy, latest = self._fleet.policy, self._registry.latest
        paused = self._fleet.settings.is_paused
        yield _gauge("release_version", "The newest release.", latest.version if latest else 0)
        yield _gauge("paused", "1 while no release is offered.", paused)
        yield _gauge("report_epsilon", "Epsilon that a report costs a device.", policy.epsilon)
        yield _gauge("report_delta", "Delta that a report costs a device.", policy.delta)
        yield _gauge("report_window_seconds", "Time that a report covers.", policy.window)
        yield _gauge(
            "minimum_cohort_devices",
            "Statistics of fewer devices are not shown.",
            policy.minimum_cohort,
        )
        up = {part.name: part.is_up for part in self._parts}
        yield _gauges("part_up", "1 while a part runs.", "part", up)
        restarts = {part.name: part.restarts for part in self._parts}
        yield _counters("part_restarts", "How often a part was started again.", "part", restarts)
        yield _gauges("build_info", "The program.", "version", {__version__: 1})

    def _statistics(self) -> Iterator[Metric]:
        latest = self._registry.latest
        found = self._fleet.reports.estimates(len(latest.labels)) if latest is not None else None
        if found is None:
            return
        scalars = [each for each in found.estimates if each.entry is None]
        means = {each.name: each.mean for each in scalars}
        yield _gauges("statistic_mean", "Estimated mean over the devices.", "statistic", means)
        errors = {each.name: each.standard_error for each in scalars}
        meaning = "Standard error of the mean."
        yield _gauges("statistic_standard_error", meaning, "statistic", errors)
        shares = (each.mean for each in found.estimates if each.name == "latency_share")
        yield _gauges(
            "statistic_latency_share",
            "Estimated share of recognitions by the seconds they took at most.",
            "bucket",
            dict(zip([*map(str, LATENCIES), "+Inf"], shares, strict=True)),
        )
        yield _gauge("statistic_cohort_devices", "Devices behind the estimates.", found.cohort)
        yield _gauge(
            "statistic_window_timestamp_seconds",
            "When the window of the estimates ended.",
            found.ended,
        )

    def _improvements(self) -> Iterator[Metric]:
        attempts, latest = self._fleet.attempts, self._registry.latest
        stages = Tally(attempt.stage for attempt in attempts.all())
        in_flight = {stage: stages[stage] for stage in IN_FLIGHT}
        meaning = "1 at the stage of the attempt in flight."
        yield _gauges("improvement_stage", meaning, "stage", in_flight)
        ended = {stage: stages[stage] for stage in ENDS}
        yield _counters("improvements", "Attempts to improve that have ended.", "outcome", ended)
        rounds = dict(zip(("done", "abandoned"), attempts.round_counts, strict=True))
        yield _counters("improvement_rounds", "Rounds of all attempts.", "outcome", rounds)
        last = attempts.last_round
        yield _gauge(
            "improvement_round_devices",
            "Devices in the sum of the last round.",
            0 if last is None else last.summed,
        )
        yield _gauge(
            "improvement_round_within_ratio",
            "Noised share of them whose update was within the radius.",
            0 if last is None else last.within,
        )
        yield _gauge(
            "improvements_epsilon",
            "What all rounds have cost the device that was in most, at the delta of reports.",
            epsilon_of(attempts.rho, self._fleet.policy.delta),
        )
        yield _gauge(
            "release_share",
            "The share of the devices that the newest release is for.",
            attempts.roll_out(latest).share if latest else 1.0,
        )
        made = {last.decision: last.moment for last in attempts.decisions(1)}
        yield _gauges(
            "improvement_decision_timestamp_seconds",
            "When the newest decision was made.",
            "decision",
            made or {"none": 0.0},
        )


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"fedhw_{name}", meaning, value=value)


def _gauges(name: str, meaning: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"fedhw_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counters(name: str, meaning: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(f"fedhw_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def metrics_pages(metrics: Metrics) -> Starlette:
    """Return the application of `/metrics` and `/healthz`."""

    async def show(_: Request) -> Response:
        text = await asyncio.to_thread(metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", show), Route("/healthz", healthy)])
