"""A coordinator's metrics without a coordinator: every name that dashboards and alerts rely on."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fedhw.improvement.attempt import ENDS, IN_FLIGHT, Stage
from fedhw_server.fronts.statistics_service import REASONS

STATISTICS = (
    "ge_accuracy",
    "le_accuracy",
    "moe_accuracy",
    "gain",
    "gate_open",
    "correction_rate",
    "samples",
)

GAUGES = {
    "fedhw_devices_enrolled": 40,
    "fedhw_devices_online": 31,
    "fedhw_devices_revoked": 2,
    "fedhw_devices_held_back": 3,
    "fedhw_devices_refused": 1,
    "fedhw_release_version": 2,
    "fedhw_round_last_timestamp_seconds": 1_800_000_000,
    "fedhw_statistic_cohort_devices": 25,
    "fedhw_statistic_window_timestamp_seconds": 1_800_000_000,
    "fedhw_report_epsilon": 2,
    "fedhw_report_delta": 1e-6,
    "fedhw_report_window_seconds": 86_400,
    "fedhw_minimum_cohort_devices": 10,
    "fedhw_paused": 0,
    "fedhw_release_share": 1,
    "fedhw_improvements_epsilon": 4,
    "fedhw_improvement_round_devices": 80,
    "fedhw_improvement_round_within_ratio": 0.5,
}


class FleetExporter:
    """A registry of a fleet in which a little of everything happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for name, value in GAUGES.items():
            self._gauge(name).set(value)
        self._gauge("fedhw_build_info", "version").labels("0.1.0").set(1)
        releases = self._gauge("fedhw_devices_on_release", "release")
        releases.labels("v1-0123abcd").set(10)
        releases.labels("v2-4567cdef").set(28)
        mean = self._gauge("fedhw_statistic_mean", "statistic")
        error = self._gauge("fedhw_statistic_standard_error", "statistic")
        for statistic in STATISTICS:
            mean.labels(statistic).set(0.08)
            error.labels(statistic).set(0.01)
        shares = self._gauge("fedhw_statistic_latency_share", "bucket")
        for bucket in ("0.001", "0.01", "beyond"):
            shares.labels(bucket).set(0.3)
        up = self._gauge("fedhw_part_up", "part")
        self._restarts = self._counter("fedhw_part_restarts_total", "part")
        for part in ("superlink", "serverapp"):
            up.labels(part).set(1)
            self._restarts.labels(part)
        stage = self._gauge("fedhw_improvement_stage", "stage")
        for name in IN_FLIGHT:
            stage.labels(name).set(name == Stage.ROUNDS)
        decided = self._gauge("fedhw_improvement_decision_timestamp_seconds", "decision")
        decided.labels("begin").set(1_800_000_000)
        ended = self._counter("fedhw_improvements_total", "outcome")
        for name in ENDS:
            ended.labels(name).inc()
        self._sums = self._counter("fedhw_improvement_rounds_total", "outcome")
        self._rounds = self._counter("fedhw_rounds_total", "outcome")
        self._accepted = self._counter("fedhw_reports_accepted_total")
        self._refused = self._counter("fedhw_reports_refused_total", "reason")
        self._round_seconds = self._histogram("fedhw_round_seconds")
        self._report_seconds = self._histogram("fedhw_report_seconds")
        self.go_on()

    def go_on(self) -> None:
        """Let a round and some reports happen."""
        for outcome in ("answered", "abandoned"):
            self._rounds.labels(outcome).inc()
        for outcome in ("done", "abandoned"):
            self._sums.labels(outcome).inc()
        self._accepted.inc(len(REASONS))
        for reason in REASONS:
            self._refused.labels(reason).inc()
        self._round_seconds.observe(0.5)
        self._report_seconds.observe(0.01)

    @property
    def names(self) -> set[str]:
        """The metrics as a rule names them: a histogram has three."""
        return {
            sample.name
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, "A gauge.", labels, registry=self.registry)

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(name, "A counter.", labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        return Histogram(name, "A histogram.", registry=self.registry)
