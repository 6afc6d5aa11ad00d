"""The service that takes the devices' reports, as `protos/fedhw/v1/statistics.proto` defines it.

Reports are committed in groups: one transaction stores all that arrived while the disk was busy. A
device gets its answer when its report is durable.
"""

import asyncio
import gc
import hashlib
from functools import lru_cache
from typing import Any, TypeAlias

import grpc
import numpy as np
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from fedhw.errors import InputError
from fedhw.privacy.statistics import SHADOW, SIGNED, Report, check_report
from fedhw.release.registry import Registry
from fedhw.system.clock import Clock
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.reports import Accepted

BURST_REPORTS, REPORTS_PER_SECOND = 20.0, 1.0
"""Reports that a device may send at once, and how fast it may go on."""

REASONS = {
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "unenrolled": grpc.StatusCode.UNAUTHENTICATED,
    "signature": grpc.StatusCode.UNAUTHENTICATED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "rate": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "policy": grpc.StatusCode.INVALID_ARGUMENT,
    "window": grpc.StatusCode.INVALID_ARGUMENT,
    "release": grpc.StatusCode.INVALID_ARGUMENT,
    "range": grpc.StatusCode.INVALID_ARGUMENT,
    "repeated": grpc.StatusCode.ALREADY_EXISTS,
    "store": grpc.StatusCode.UNAVAILABLE,
}
"""Why a report is refused, in a word for the metrics, and the status code for the device."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = structlog.get_logger()

GC_THRESHOLD_OBJECTS = 20_000
"""New objects between two garbage collections; Python's default of 700 is reached in few calls."""

GATHERING_SECONDS = 0.02
"""Seconds in which reports gather for one transaction."""


class RefusedError(InputError):
    """A report that is not counted; its status code is that of the reason by default."""

    def __init__(self, reason: str, sentence: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.code = code or REASONS[reason]


class Watcher:
    """Is told the outcome of each report; the metrics implement it."""

    def accepted(self, seconds: float) -> None:
        """A report is counted."""

    def refused(self, reason: str) -> None:
        """A report is not counted."""


class StatisticsService(pb_grpc.StatisticsServicer):
    """Checks reports and counts each of them once."""

    def __init__(self, fleet: Fleet, registry: Registry, watcher: Watcher) -> None:
        self._fleet = fleet
        self._policy = fleet.policy
        self._registry = registry
        self._classes: dict[str, int] = {}
        self._watcher = watcher
        # A connection of its own, so that checks need not wait while reports are written.
        self._reading = Fleet(fleet.path, fleet.clock)
        self._attempts = self._reading.attempts
        self._clock = fleet.clock
        self._rate = _Rate(fleet.clock)
        self._waiting: list[tuple[Accepted, asyncio.Future[bool]]] = []
        self._arrived = asyncio.Event()

    async def SendReport(  # noqa: N802
        self, request: pb.SendReportRequest, context: Context
    ) -> pb.SendReportResponse:
        """Count a report; a refusal says in one sentence why."""
        began = self._clock.monotonic()
        try:
            counted = asyncio.get_running_loop().create_future()
            self._waiting.append((self._checked(request), counted))
            self._arrived.set()
            if not await counted:
                raise RefusedError(
                    "repeated", "report: there was one already, with other figures; send each once"
                )
        except RefusedError as error:
            self._watcher.refused(error.reason)
            await context.abort(error.code, str(error))
        self._watcher.accepted(self._clock.monotonic() - began)
        return pb.SendReportResponse()

    async def count_forever(self) -> None:
        """Count what has arrived, batch by batch; ends only when cancelled."""
        # What is loaded by now stays, and calls leave hardly any cycles, so frequent collections
        # would only cost time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        pruned = 0.0
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHERING_SECONDS)
            self._arrived.clear()
            batch, self._waiting = self._waiting, []
            try:
                accepted = [report for report, _ in batch]
                agree = await asyncio.to_thread(self._fleet.reports.count, accepted)
                if self._clock.monotonic() - pruned > self._policy.window:
                    await asyncio.to_thread(self._fleet.reports.prune, self._clock.wall())
                    pruned = self._clock.monotonic()
            except Exception as error:  # whatever the disk does, the service goes on
                log.error("reports not counted", error=type(error).__name__, reports=len(batch))
                for _, counted in batch:
                    if not counted.done():
                        counted.set_exception(_unavailable())
                continue
            for (_, counted), agrees in zip(batch, agree, strict=True):
                if not counted.done():  # who asked may have hung up
                    counted.set_result(agrees)

    def _checked(self, request: pb.SendReportRequest) -> Accepted:
        """Return a report after checking it; raises RefusedError."""
        message = _parsed(request.report)
        self._verify(message.device, request)
        policy = self._policy
        if (message.epsilon, message.delta) != (policy.epsilon, policy.delta):
            raise RefusedError(
                "policy",
                f"epsilon, delta: ({message.epsilon:g}, {message.delta:g}) are not the fleet's "
                f"({policy.epsilon:g}, {policy.delta:g}); enrol again",
            )
        now = self._clock.wall()
        # A report about a candidate comes in the middle of a window; the one before it is over.
        window = message.window - (message.schema == SHADOW.schema)
        if not policy.is_over(window, now):
            raise RefusedError(
                "window",
                f"window: {message.window} is not over yet; set the clock, and send it again later",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        if not policy.is_open(window, now):
            raise RefusedError(
                "window", f"window: {message.window} is over for too long; send reports sooner"
            )
        classes = self._classes_of(message)
        if classes is None:
            raise RefusedError(
                "release",
                f"release: {message.release[:40]!r} is not of this coordinator; run one that is",
            )
        report = Report(
            message.device,
            message.schema,
            message.window,
            message.release,
            message.epsilon,
            message.delta,
            np.array(message.steps, np.int64),
        )
        try:
            check_report(report, classes)
        except InputError as error:
            raise RefusedError("range", str(error)) from None
        return Accepted(report, hashlib.sha256(request.report).hexdigest())

    def _classes_of(self, message: pb.Report) -> int | None:
        """Return a release's number of labels, None where the device should not report on it."""
        release = message.release
        if message.schema == SHADOW.schema:  # these statistics are not by class
            return 0 if self._attempts.evaluates(message.device, release) else None
        if release not in self._classes:
            try:
                published = self._registry.versions()
            except InputError as error:
                log.error("releases cannot be read", reason=str(error))
                raise _unavailable() from None
            self._classes = {each.name: len(each.labels) for each in published}
        return self._classes.get(release)

    def _verify(self, device: str, request: pb.SendReportRequest) -> None:
        """Raise RefusedError unless the report comes from a device that may send one now."""
        known = self._reading.members.reporter(device)
        if known is None:
            raise RefusedError(
                "unenrolled",
                f"device: {device[:64]!r} is not enrolled; ask the operator for an invitation",
            )
        key, is_revoked = known
        try:
            _key(key).verify(request.signature, SIGNED + request.report)
        except InvalidSignature:
            raise RefusedError(
                "signature", "signature: it is not the device's of these bytes; sign what is sent"
            ) from None
        if is_revoked:
            raise RefusedError(
                "revoked",
                f"device: {device} was revoked by the operator; it can send nothing any more",
            )
        if not self._rate.take(device):
            raise RefusedError("rate", f"device: {device} reports too often; wait a few seconds")


class _Rate:
    """A token bucket for each device."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, device: str) -> bool:
        """Whether a device may send one more report now."""
        now = self._clock.monotonic()
        filled, left = self._buckets.get(device, (now, BURST_REPORTS))
        left = min(BURST_REPORTS, left + (now - filled) * REPORTS_PER_SECOND)
        self._buckets[device] = (now, left - (left >= 1))
        return left >= 1


_key = lru_cache(maxsize=100_000)(Ed25519PublicKey.from_public_bytes)


def _parsed(content: bytes) -> pb.Report:
    try:
        return pb.Report.FromString(content)
    except DecodeError:
        raise RefusedError(
            "malformed", "report: its bytes are no Report; send what statistics.proto says"
        ) from None


def _unavailable() -> RefusedError:
    return RefusedError("store", "report: it cannot be stored now; send it again later")
