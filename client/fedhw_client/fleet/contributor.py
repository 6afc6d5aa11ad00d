"""A device's part in a round of an improvement: local training and a masked update for the sum.

    advertise  an acceptable task    ->  its keys; training starts in a thread
    share      the neighbours' keys  ->  an envelope for each
    mask       their envelopes       ->  its noised and masked vector, after the ledger has paid
    reveal     the surviving ones    ->  its shares; the sum is forgotten

The state of a sum is in memory only, so a device that is killed drops out. The ledger's record of
the payment stays, and a paid sum never gets a second vector. A repeated request gets the same
answer, since the first may have been lost; only `reveal` is answered once. A sum ends when the
person removes a correction, which the training may have used.
"""

import math
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import structlog
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.improvement.contribution import Task
from fedhw.improvement.local_update import FEWEST, LocalTraining, unflatten
from fedhw.privacy.budget import BudgetSpentError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.secret_sharing import Share
from fedhw.privacy.secure_sum import (
    Advertised,
    Keys,
    Masked,
    Shared,
    advertise,
    mask,
    reveal,
    share,
)
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.throttle import PROCESSOR_SHARE, step_back
from fedhw_client.fleet.enrolment import Enrolment

LONGEST_SUM_SECONDS = 600.0
"""Seconds after which an unfinished sum is forgotten."""

TRAINING_TIMEOUT_SECONDS = 3.0
"""Most seconds that a step waits for the training; heartbeats wait for the step."""

log = structlog.get_logger()


class Reason(StrEnum):
    """Why a device declines, by the names in `improvement.proto`."""

    UNAVAILABLE = "unavailable"
    TASK = "task"
    BUDGET = "budget"
    SUM = "sum"
    STEP = "step"


class DeclinedError(InputError):
    """A step that a device declines, with the reason as a word for the coordinator."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Contributor:
    """Takes the steps of one sum at a time, over at least `least` surviving devices.

    Every step raises DeclinedError where the device declines; an error ends the sum.
    """

    def __init__(
        self,
        agent: Agent,
        enrolment: Enrolment,
        ledger: Ledger,
        least: int,
        clock: Clock = SystemClock(),
    ) -> None:
        self._agent = agent
        self._enrolment = enrolment
        self._ledger = ledger
        self.least = least
        self._clock = clock
        self._turn = threading.Lock()
        self._sum: _Sum | None = None
        self._is_closed = False

    @property
    def sum_in_progress(self) -> str | None:
        """The name of the sum in progress, in hexadecimal; None where there is none."""
        current = self._sum
        return None if current is None else current.advertised.terms.sum.hex()

    @property
    def is_training(self) -> bool:
        """Whether the device trains for the sum in progress."""
        current = self._sum
        return current is not None and current.training.is_alive()

    def close(self) -> None:
        """Decline everything from now on, and end a sum in progress."""
        with self._turn:
            self._is_closed = True
            self._forget()

    def advertise(self, sum: bytes, task: Task) -> Keys:
        """Join the sum of this name and return the keys; any other sum is forgotten."""
        with self._turn:
            if self._sum is not None and self._sum.is_of(sum, task):
                return self._sum.keys
            self._forget()
            with _declining(Reason.TASK):
                terms = task.terms(sum)
                expert = self._expert(task)
            self._check_budget(sum, task)
            removals = self._agent.removals  # read before the samples
            images, labels = self._agent.samples()
            of_fleet = self._agent.release.manifest.version > 0
            if self._is_closed or not of_fleet or len(images) < FEWEST:
                raise DeclinedError(Reason.UNAVAILABLE, "device: cannot take part; ask another one")
            device, key = self._enrolment.invitation.device, self._enrolment.report_key
            advertised, keys = advertise(terms, device, key, certificate=b"")
            training = _Training(task, expert, images, labels, self._clock)
            self._sum = _Sum(task, advertised, keys, training, removals)
            threading.Thread(
                target=self._expire, args=[self._sum], name="expiry", daemon=True
            ).start()
            log.info("taking part", sum=sum.hex())
            return keys

    def share(self, sum: bytes, neighbours: Sequence[Keys]) -> Mapping[str, bytes]:
        """Return an envelope for each neighbour, by name."""
        with self._step(sum) as current:
            if current.shared is None:
                authority = self._enrolment.invitation.release_key
                current.shared = share(current.advertised, neighbours, authority, self.least)
            return current.shared[1]

    def mask(self, sum: bytes, envelopes: Mapping[str, bytes]) -> bytes | None:
        """Return the masked vector, None while the training lasts."""
        with self._step(sum) as current:
            if current.masked is None:
                if current.shared is None:
                    raise DeclinedError(Reason.STEP, "mask: comes after share; begin a new sum")
                # Paid before anything depends on the person's data, the answer's timing included.
                self._ledger.charge_round(sum.hex(), current.task.rho, self._clock.wall())
                vector = current.training.vector(TRAINING_TIMEOUT_SECONDS)
                if vector is None:
                    return None
                if current.removals != self._agent.removals:
                    raise DeclinedError(
                        Reason.UNAVAILABLE, "device: has forgotten; begin a new sum"
                    )
                current.masked = mask(current.shared[0], vector, envelopes)
            return current.masked[1]

    def reveal(self, sum: bytes, survivors: Collection[str]) -> Mapping[str, Share]:
        """Return the shares by the names of the neighbours, and forget the sum."""
        with self._step(sum) as current:
            if current.masked is None:
                raise DeclinedError(Reason.STEP, "reveal: comes after mask; begin a new sum")
            shares = reveal(current.masked[0], survivors)
            self._forget()
            return shares

    def _expert(self, task: Task) -> GlobalExpert:
        """Return the expert to start from; raises InputError for a task it does not accept."""
        if task.survivors < self.least:
            raise InputError(
                f"survivors: {task.survivors} is below the {self.least} of this device; ask more"
            )
        if not math.isfinite(task.rho):
            raise InputError(f"noise: {task.noise:g} protects nobody; give more")
        parameters = np.frombuffer(task.parameters, "<f4").astype(np.float32)
        if not np.isfinite(parameters).all():
            raise InputError("parameters: are not all finite; send others")
        try:
            return unflatten(self._agent.release.expert, parameters)
        except ValueError as error:
            raise InputError(f"parameters: {error}; send those of the release in use") from None

    def _check_budget(self, sum: bytes, task: Task) -> None:
        """Decline a sum that cannot be paid, since dropping out later costs the others."""
        with _declining(Reason.UNAVAILABLE):
            self._ledger.check_round(task.rho, self._clock.wall())
            if any(paid.name == sum.hex() for paid in self._ledger.rounds()):
                raise DeclinedError(Reason.SUM, f"sum: {sum.hex()} was paid for; begin a new one")

    @contextmanager
    def _step(self, sum: bytes) -> Iterator["_Sum"]:
        with self._turn:
            current = self._sum
            if current is None or current.advertised.terms.sum != sum:
                raise DeclinedError(
                    Reason.SUM, f"sum: {sum.hex()} is not in progress; begin a new one"
                )
            try:
                with _declining(Reason.STEP):
                    yield current
            except Exception:
                self._forget()
                raise

    def _expire(self, current: "_Sum") -> None:
        if not self._clock.wait(current.ended, LONGEST_SUM_SECONDS):
            with self._turn:
                if self._sum is current:
                    self._forget()

    def _forget(self) -> None:
        if self._sum is not None:
            self._sum.ended.set()
            self._sum.training.give_up()
            self._sum = None


class _Training(threading.Thread):
    """Trains with low priority until it is done or told to give up."""

    def __init__(
        self,
        task: Task,
        expert: GlobalExpert,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        clock: Clock,
    ) -> None:
        super().__init__(name="training", daemon=True)
        self._task = task
        self._expert = expert
        self._images = images
        self._labels = labels
        self._clock = clock
        self._given_up = threading.Event()
        self._breathed = 0.0
        self._vector: NDArray[np.int64] | None = None
        self.start()

    def give_up(self) -> None:
        """Stop, and wait for the end of it."""
        self._given_up.set()
        self.join()

    def vector(self, seconds: float) -> NDArray[np.int64] | None:
        """Return what the device adds to the sum, None where it is not there in so many seconds."""
        self.join(seconds)
        return self._vector

    def run(self) -> None:
        """Train."""
        step_back()
        self._breathed = self._clock.processor()
        seed = secrets.randbits(63)
        try:
            update = LocalTraining().update(
                self._expert, self._images, self._labels, self._task.rate, seed, self._breathe
            )
        except _GivenUpError:
            return
        except Exception as error:
            # The failure may depend on the person's data, so the answer must not show it.
            log.warning("not trained", error=type(error).__name__)
            update = np.full(self._task.entries - 1, np.nan, np.float32)
        self._vector = self._task.contribution(update)

    def _breathe(self) -> None:
        """Pause in proportion to the processor time since the last pause."""
        worked = self._clock.processor() - self._breathed
        if self._clock.wait(self._given_up, worked * (1 / PROCESSOR_SHARE - 1)):
            raise _GivenUpError
        self._breathed = self._clock.processor()


class _GivenUpError(Exception):
    """The training's result is no longer needed."""


@dataclass
class _Sum:
    """The state of the sum in progress."""

    task: Task
    advertised: Advertised
    keys: Keys
    training: _Training
    removals: int
    ended: threading.Event = field(default_factory=threading.Event)
    shared: tuple[Shared, Mapping[str, bytes]] | None = None
    masked: tuple[Masked, bytes] | None = None

    def is_of(self, name: bytes, task: Task) -> bool:
        return self.advertised.terms.sum == name and self.task == task


@contextmanager
def _declining(reason: Reason) -> Iterator[None]:
    """Turn an InputError into a DeclinedError with this reason."""
    try:
        yield
    except DeclinedError:
        raise
    except BudgetSpentError as error:
        raise DeclinedError(Reason.BUDGET, str(error)) from None
    except InputError as error:
        raise DeclinedError(reason, str(error)) from None
