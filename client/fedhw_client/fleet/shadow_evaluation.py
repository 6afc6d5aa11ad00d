"""Shadow evaluation on a device: compares a candidate for the next release with the one in use.

    a candidate, without files  ->  wanted  ->  the same with files  ->  evaluating  ->  told
                                `-> declined: the budget pays for no more reports

Nothing is installed: a candidate's signature is not that of a release. A device makes one noised
report about each candidate, and the ledger is charged before it is sent.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from fedhw.errors import InputError
from fedhw.improvement.actions import Progress
from fedhw.privacy.budget import BudgetSpentError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Evaluation, make_report
from fedhw.release.manifest import Manifest
from fedhw.release.offer import verify_files
from fedhw.release.release import Release, open_files
from fedhw.release.signing import verify_candidate
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.throttle import step_back
from fedhw_client.fleet.enrolment import Enrolment
from fedhw_client.fleet.reporter import signed

RETRY_SECONDS = 60.0
"""Seconds after which a candidate whose evaluation failed is tried again."""

log = structlog.get_logger()


class Shadow:
    """Answers offers of candidates that are signed with the fleet's release key.

    It is safe to call from any thread. A candidate is evaluated in a thread; if the agent ends
    meanwhile, the next offer starts over. `send_soon` is called when the ledger has a new report.
    """

    def __init__(
        self,
        agent: Agent,
        enrolment: Enrolment,
        ledger: Ledger,
        send_soon: Callable[[], object],
        clock: Clock = SystemClock(),
    ) -> None:
        self._agent = agent
        self._invitation = enrolment.invitation
        self._key = enrolment.report_key
        self._ledger = ledger
        self._send_soon = send_soon
        self._clock = clock
        self._mechanism = GaussianMechanism(self._invitation.epsilon, self._invitation.delta)
        self._considering = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_evaluating = False
        self._failed = ("", 0.0)

    def close(self) -> None:
        """Wait for an evaluation in progress; close the agent first, which hurries it."""
        with self._considering:
            if self._thread is not None:
                self._thread.join()

    def consider(self, manifest: bytes, signature: bytes, files: Mapping[str, bytes]) -> Progress:
        """Answer an offer; one without `files` asks whether they are wanted."""
        with self._considering:
            try:
                return self._considered(manifest, signature, files)
            except BudgetSpentError:
                return Progress.DECLINED
            except InputError as error:
                log.warning("candidate refused", reason=str(error))
                return Progress.REFUSED

    def _considered(
        self, manifest: bytes, signature: bytes, files: Mapping[str, bytes]
    ) -> Progress:
        verify_candidate(manifest, signature, self._invitation.release_key)
        candidate = Manifest.parse(manifest, "the candidate")
        evaluating = self._is_evaluating  # asked first: once it ends, the ledger knows
        if any(charge.about == candidate.name for charge in self._ledger.history()):
            return Progress.TOLD
        if evaluating:
            return Progress.EVALUATING  # another candidate; this one is next
        self._ledger.check_report(self._mechanism, self._clock.wall())
        failed, at = self._failed
        if failed == candidate.digest and self._clock.monotonic() - at < RETRY_SECONDS:
            return Progress.REFUSED
        if not files:
            return Progress.WANTED
        verify_files(candidate, files)
        release = Release(candidate, *open_files(candidate, files), Path())
        self._is_evaluating = True
        self._thread = threading.Thread(
            target=self._evaluate, args=(release,), name="shadow", daemon=True
        )
        self._thread.start()
        return Progress.EVALUATING

    def _evaluate(self, release: Release) -> None:
        step_back()
        candidate = release.manifest
        try:
            evaluation, now = self._evaluated(release), self._clock.wall()
            message = partial(self._message, candidate.name, evaluation, now)
            self._ledger.charge(candidate.name, self._mechanism, now, message)
            self._send_soon()
            log.info("evaluated", candidate=candidate.name)
        except Exception as error:  # of any kind: an immediate retry would fail again
            log.warning("not evaluated", candidate=candidate.name, error=type(error).__name__)
            self._failed = (candidate.digest, self._clock.monotonic())
        finally:
            self._is_evaluating = False

    def _evaluated(self, release: Release) -> Evaluation:
        """Return the evaluation; a failure may depend on private data and is reported as zeros."""
        try:
            return self._agent.evaluate(release)
        except InputError:
            raise  # other labels, or the agent stops
        except Exception as error:
            log.warning("not evaluated", error=type(error).__name__)
            return Evaluation(0, 0, 0, 0, 0)

    def _message(self, candidate: str, evaluation: Evaluation, now: float) -> bytes:
        """Return the signed report about a candidate."""
        window = int(now // self._invitation.window)
        device = self._invitation.device
        report = make_report(evaluation, device, window, candidate, self._mechanism)
        return signed(report, self._key)
