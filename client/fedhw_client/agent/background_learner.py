"""Learns from a person's corrections in the background, one learning at a time.

Learning from new corrections runs in its own thread, learning for an offered release in the
caller's.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import structlog

from fedhw.errors import InputError
from fedhw.experts.orientation import warn_if_upside_down
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Base, adopt, evaluate, follow, relearn
from fedhw.privacy.statistics import Evaluation
from fedhw.release.release import Release
from fedhw.system.clock import Clock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.durable_person import DurablePerson, base_of
from fedhw_client.agent.throttle import Throttle, step_back

log = structlog.get_logger()

MOST_CHECKED = 200
"""The latest corrections that are checked for whether they are upside down."""


class BackgroundLearner:
    """Learns for a person, and calls `changed` when a learning begins and when it has ended."""

    def __init__(self, person: DurablePerson, changed: Callable[[], None], clock: Clock) -> None:
        self.learnings = 0
        self.learning_seconds = 0.0
        self._person = person
        self._changed = changed
        self._clock = clock
        self._turn = threading.Lock()  # taken before that of the person
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._throttle = Throttle(self._is_hurried, clock)
        self._learner = replace(Learner(), pause=self._throttle.breathe)
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hurry a learning in progress and wait for its end; nothing is learned afterwards."""
        self._stopping.set()
        self._due.set()
        self._thread.join()
        with self._turn:
            pass

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def is_learning(self) -> bool:
        """Whether something is being learned, or about to be."""
        return self._due.is_set() or self._turn.locked()

    def wake(self) -> None:
        """Learn soon."""
        self._due.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait for a learning in progress, and block further ones meanwhile."""
        with self._turn:
            yield

    def wake_if_due(self) -> None:
        """Learn soon if enough corrections came since the last learning."""
        if self._person.in_use.person.is_due:
            self.wake()

    def adopt(self, release: Release, install: Callable[[], object]) -> bool:
        """Use another release unless it is worse for this person; returns whether it is in use."""
        with self._considering(release):
            before, offered = self._person.in_use, self._offered(release)
            running = base_of(before.release)
            name, is_rollback = offered.release, release.manifest.restores is not None
            with self._counted():
                [learned] = adopt([before.person], running, offered, self._learner, is_rollback)
            if learned is before.person:
                log.info("held back", release=name)
                return False
            # Follow most corrections here, so that `move` holds the lock only for a moment.
            now = self._person.in_use.person
            [learned] = follow([learned], [now], offered, self._learner.pause)
            self._person.move(release, learned, install)
            self.wake_if_due()
            log.info("adopted", release=name, version=learned.version)
            return True

    def evaluate(self, release: Release) -> Evaluation:
        """Count how another release would do for this person, and change nothing."""
        with self._considering(release), self._counted():
            in_use = self._person.in_use
            running, other = base_of(in_use.release), base_of(release)
            [found] = evaluate([in_use.person], running, other, self._learner)
            return found

    def _offered(self, release: Release) -> Base:
        """Return the base of a release; the one in use where only the name differs."""
        in_use, offered = self._person.in_use, base_of(release)
        if release.manifest.files == in_use.release.manifest.files:
            return base_of(in_use.release)._replace(release=offered.release)
        return offered

    @contextmanager
    def _considering(self, release: Release) -> Iterator[None]:
        """Check that a release can take over, and block other learning meanwhile."""
        running = self._person.in_use.release
        if (release.labels, release.observation) != (running.labels, running.observation):
            raise InputError(
                f"release: the labels or observations of {release.manifest.name} are not those of "
                f"{running.manifest.name}; give a release of the same"
            )
        self._changed()
        try:
            with self._turn:
                if self._stopping.is_set():
                    raise StoreError("release: the agent is stopping; offer it again later")
                yield
        finally:
            self._changed()

    def _run(self) -> None:
        step_back()
        while True:
            self._due.wait()
            self._changed()
            with self._turn:
                self._due.clear()
                if self._stopping.is_set():  # only now: `close` may have come a moment before
                    return
                try:
                    self._learn()
                except Exception as error:  # of any kind: recognising goes on without it
                    log.error("learning failed", error=type(error).__name__)
                    self._person.note_failed()
            self._changed()

    def _learn(self) -> None:
        with self._counted():
            in_use = self._person.try_to_learn()
            [learned] = relearn([in_use.person], base_of(in_use.release), self._learner)
            is_new = self._person.take_up(learned)
        if learned.has_failed:
            log.error("learning failed", error="numbers that are not finite")
        else:
            log.info("learned", swapped=is_new, version=self._person.in_use.person.version)
        recent = in_use.person.replay.samples[-MOST_CHECKED:]
        observations = in_use.release.observation.stack([one.observation for one in recent])
        labels = np.array([one.label for one in recent])
        if told := warn_if_upside_down(in_use.release.expert, observations, labels):
            log.warning(told)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a learning and its processor time."""
        began = self._clock.processor()
        try:
            yield
        finally:
            self.learnings += 1
            self.learning_seconds += self._clock.processor() - began

    def _is_hurried(self) -> bool:
        """Whether the agent stops, or enough corrections wait for the next learning."""
        return self._stopping.is_set() or self._person.in_use.person.is_due
