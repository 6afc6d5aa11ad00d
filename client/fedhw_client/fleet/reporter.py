"""Reports to the coordinator: one a window, clipped and noised, within the privacy budget.

when a window has ended:
    tally := the events in it, counted from the corrections that are still kept
    charge the ledger for the report and store its bytes, in one transaction
until every charged report has arrived:
    send the stored bytes
"""

import threading

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhw.privacy.budget import BudgetSpentError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import SIGNED, Report, make_report
from fedhw.system.clock import Clock, SystemClock
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.latency_counts import LatencyCounts
from fedhw_client.fleet.backoff import Backoff
from fedhw_client.fleet.enrolment import Enrolment, secure_channel

SEND_TIMEOUT_SECONDS = 10.0
"""Seconds that the coordinator has to answer."""

LONGEST_PAUSE_SECONDS = 30.0
"""Most seconds between two tries."""

STOP_GRACE_SECONDS = 3.0
"""Seconds that a report in flight has when the agent stops."""

SPREAD_SHARE = 0.1
"""Share of a window, after its end, over which a fleet's devices spread their reports."""

FINAL_CODES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
"""Status codes after which a report is not sent again."""

log = structlog.get_logger()


class Reporter:
    """Makes and sends the reports of one device, in a thread of its own."""

    def __init__(
        self,
        agent: Agent,
        enrolment: Enrolment,
        ledger: Ledger,
        usage: LatencyCounts,
        clock: Clock = SystemClock(),
    ) -> None:
        invitation = enrolment.invitation
        self._agent = agent
        self._invitation = invitation
        self._key = enrolment.report_key
        self._since = enrolment.since
        self._ledger = ledger
        self._usage = usage
        self._clock = clock
        self._mechanism = GaussianMechanism(invitation.epsilon, invitation.delta)
        self._is_revoked = False
        self._backoff = Backoff(LONGEST_PAUSE_SECONDS)
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop within `STOP_GRACE_SECONDS`; unsent reports are sent after the next start."""
        self._stopping.set()
        self._due.set()
        self._thread.join(STOP_GRACE_SECONDS)

    def send_soon(self) -> None:
        """Send unsent reports now, without waiting for the end of a window."""
        self._due.set()

    def _run(self) -> None:
        done, window = -1, -1
        # Each device has its own delay, the same after every window.
        delay = int.from_bytes(self._key.public_key().public_bytes_raw()[:4]) / 2**32
        delay *= SPREAD_SHARE * self._invitation.window
        while not self._stopping.is_set():
            window = int((self._clock.wall() - delay) // self._invitation.window) - 1
            try:
                if window != done and self._is_to_report(window):
                    self._pay(window)
                done = window
                self._send_all()
                is_done = True
            except grpc.RpcError as error:
                log.info("not sent yet", code=error.code().name)
                is_done = False
            except Exception as error:  # for example a full disk
                log.warning("not reported yet", error=type(error).__name__)
                is_done = False
            next_end = (window + 2) * self._invitation.window + delay
            pause = max(next_end - self._clock.wall(), 0.1)
            if is_done:
                self._backoff.reset()
            else:
                pause = min(pause, self._backoff.next())
            self._clock.wait(self._due, pause)
            self._due.clear()

    def _is_to_report(self, window: int) -> bool:
        """Whether the device was enrolled for the whole window and runs a published release."""
        of_fleet = self._agent.release.manifest.version > 0
        return of_fleet and window * self._invitation.window >= self._since and not self._is_revoked

    def _pay(self, window: int) -> None:
        try:
            now = self._clock.wall()
            self._ledger.charge(window, self._mechanism, now, lambda: self._message(window))
        except BudgetSpentError:
            log.info("not reported", window=window, reason="the budget is spent")

    def _message(self, window: int) -> bytes:
        """Return the signed report about a window."""
        start, end = (number * self._invitation.window for number in (window, window + 1))
        tally = self._agent.tally(start, end, self._usage.latencies(window))
        release = self._agent.release_name
        report = make_report(tally, self._invitation.device, window, release, self._mechanism)
        return signed(report, self._key)

    def _send_all(self) -> None:
        """Send the reports that have not arrived."""
        unsent = self._ledger.unsent()
        if unsent:
            with secure_channel(self._invitation) as channel:
                stub = pb_grpc.StatisticsStub(channel)  # type: ignore[no-untyped-call]
                for charge in unsent:
                    self._send(stub, charge.about, charge.message)

    def _send(self, stub: pb_grpc.StatisticsStub, about: int | str, message: bytes) -> None:
        try:
            stub.SendReport(pb.SendReportRequest.FromString(message), timeout=SEND_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            if error.code() not in FINAL_CODES:
                raise
            self._is_revoked = error.code() is grpc.StatusCode.PERMISSION_DENIED
            log.warning("refused", about=about, reason=str(error.details()))
            self._ledger.mark_refused(about, str(error.details()))
        else:
            self._ledger.mark_sent(about, self._clock.wall())


def signed(report: Report, key: Ed25519PrivateKey) -> bytes:
    """Return the bytes of a request that carries a report, signed by the device."""
    content = pb.Report(
        device=report.device,
        schema=report.schema,
        window=report.window,
        release=report.release,
        epsilon=report.epsilon,
        delta=report.delta,
        steps=report.steps.tolist(),
    ).SerializeToString()
    request = pb.SendReportRequest(report=content, signature=key.sign(SIGNED + content))
    return request.SerializeToString()
