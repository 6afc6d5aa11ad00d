"""The agent of one person: recognises, keeps every correction, learns in the background.

Any thread may call. Recognising takes no lock and waits for nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.observation import Labels, Observations
from fedhw.personalization.person import Person
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.recogniser import Recognition
from fedhw.privacy.statistics import Evaluation, Tally
from fedhw.release.release import Release
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.background_learner import BackgroundLearner
from fedhw_client.agent.correction import Correction, Kept
from fedhw_client.agent.durable_person import DurablePerson
from fedhw_client.agent.expiry import Expiry
from fedhw_client.store.corrections import Selection, Store, Window
from fedhw_client.store.profile import Profile

CAPACITY = 2000
"""Corrections that are kept; which ones make room follows from the replay policy."""

MOST_AT_ONCE = 1000
"""Corrections in one call."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Status:
    """What the agent says of itself; counts only."""

    release: str
    architecture: str
    labels: Labels
    personal_version: int
    kept: int
    corrections: int
    recognitions: int
    ge_accuracy: Prequential
    accuracy: Prequential
    learning: bool
    learnings: int
    learning_seconds: float
    store_bytes: int
    notices: tuple[str, ...]


class Agent:
    """Recognises what one person makes and learns from the corrections in a store.

    At most `capacity` corrections are kept, each at most `keep_days`. Raises InputError when the
    store holds what the release does not take, or labels that it does not know.
    """

    def __init__(
        self,
        release: Release,
        store: Store,
        keep_days: float | None = None,
        capacity: int = CAPACITY,
        clock: Clock = SystemClock(),
    ) -> None:
        self.recognitions = 0
        self._store = store
        self._listeners: list[Callable[[], None]] = []
        self._durable = DurablePerson(release, store, capacity, clock)
        self._learner = BackgroundLearner(self._durable, self._changed, clock)
        self._expiry: Expiry | None = None
        if keep_days is not None:
            self._expiry = Expiry(self._durable, self.forget, keep_days, clock)
        if self.person.replay.samples and self.person.mixture is None:
            self._learner.wake()

    def close(self) -> None:
        """Stop learning and close the store."""
        self._learner.close()
        if self._expiry is not None:
            self._expiry.close()
        with self._durable.store() as store:
            store.close()

    @property
    def release(self) -> Release:
        """The release in use."""
        return self._durable.in_use.release

    @property
    def release_name(self) -> str:
        """The name of the release in use."""
        return self._durable.in_use.person.release

    @property
    def person(self) -> Person:
        """All that is known of the person at this moment, a value."""
        return self._durable.in_use.person

    @property
    def removals(self) -> int:
        """How often corrections were taken back, or grew too old."""
        return self._durable.removals

    @property
    def is_alive(self) -> bool:
        """Whether what works in the background still runs."""
        return self._learner.is_alive and (self._expiry is None or self._expiry.is_alive)

    def recognize(self, observation: Observations) -> Recognition:
        """Recognise an observation; raises InputError for one of another type."""
        recognition = self._durable.in_use.recogniser.predict_one(observation)
        self.recognitions += 1
        return recognition

    def learn(self, corrections: Sequence[Correction]) -> list[str]:
        """Store corrections durably, all or none, and return their names.

        A name that is stored already is not stored again. Raises InputError for an observation or a
        label that does not fit the release, for over 1,000 corrections, and StoreFullError.
        """
        if len(corrections) > MOST_AT_ONCE:
            raise InputError(
                f"corrections: {len(corrections)} are over {MOST_AT_ONCE}; send them in parts"
            )
        names = self._durable.learn(corrections)
        self._learner.wake_if_due()
        self._changed()
        return names

    def undo(self) -> Kept | None:
        """Take back the newest correction and what was learned from it."""
        with self._learner.paused():
            undone = self._durable.undo()
        self._changed()
        try:
            self._scrub()
        except StoreError as error:
            # It is taken back all the same: whoever asked again would lose another one.
            log.warning("traces are left", reason=str(error))
        return undone

    def forget(self, selection: Selection) -> int:
        """Erase corrections and what was learned from them; returns how many there were.

        Raises StoreError when traces are left on the disk; asked again, it tries again.
        """
        with self._learner.paused():
            forgotten = self._durable.forget(selection)
        self._changed()
        self._scrub()
        log.info("forgot", corrections=forgotten)
        return forgotten

    def adopt(self, release: Release, install: Callable[[], object] = lambda: None) -> bool:
        """Use another release unless it is worse for this person; returns whether it is in use.

        A rollback is followed in any case. What was learned is learned anew for it, and both judge
        the corrections that neither has learned from. `install` must put the release where the next
        start looks for it. Raises InputError for other labels or observations, StoreError when
        the agent is closed, and whatever `install` raises; nothing has changed then.
        """
        return self._learner.adopt(release, install)

    def evaluate(self, release: Release) -> Evaluation:
        """Count how another release would do for this person, and change nothing.

        Raises InputError for other labels or observations, and StoreError when the agent is closed.
        """
        return self._learner.evaluate(release)

    def export_profile(self, passphrase: str) -> bytes:
        """Return every correction, encrypted; raises InputError for a short passphrase."""
        with self._durable.store() as store:
            rows = store.rows()
        return Profile(rows, self.release.observation, self.release.labels).seal(passphrase)

    def import_profile(self, content: bytes, passphrase: str) -> int:
        """Add the corrections of a profile, as the newest here, and return how many were new.

        Raises InputError for a profile that cannot be opened, of another type of observation, or
        with labels that the release does not know.
        """
        profile = Profile.unseal(content, passphrase)
        profile.check_fits(self.release)
        imported = self._durable.take_in(profile.rows)
        self._learner.wake()
        self._changed()
        log.info("imported", corrections=imported)
        return imported

    def recent(self, n: int) -> list[Kept]:
        """Return at most n corrections, the newest first."""
        with self._durable.store() as store:
            return [Kept.of(row, self.release.observation) for row in store.newest(n)]

    def samples(self) -> tuple[Observations, NDArray[np.int64]]:
        """Return observations [N, *shape] and classes [N] of what is kept and may be learned from.

        What is held back judges releases, so no release may have learned from it either.
        """
        kept = self.person.replay.learnable
        observations = self.release.observation.stack([each.observation for each in kept])
        return observations, np.array([each.label for each in kept], np.int64)

    def progress(self, n: int = 250) -> list[Window]:
        """Return how guesses went in the n newest windows of 20 corrections, the oldest first."""
        with self._durable.store() as store:
            return store.windows(n)

    def tally(self, start: float, end: float, latencies: tuple[int, ...]) -> Tally:
        """Count what happened from `start` up to `end`, Unix seconds.

        Of corrections only those that are still kept count; `latencies` counts recognitions by the
        bounds in `fedhw.privacy.statistics.LATENCIES`.
        """
        with self._durable.store() as store:
            judged = store.judged(start, end)
        wrong = Counter(one.label for one in judged if not one.right)
        return Tally(
            corrections=len(judged),
            ge_right=sum(one.ge_right for one in judged),
            le_right=sum(one.le_right for one in judged),
            right=sum(one.right for one in judged),
            opened=sum(one.opened for one in judged),
            recognitions=sum(latencies),
            errors=tuple(wrong[label] for label in self.release.labels),
            latencies=latencies,
        )

    def status(self) -> Status:
        """Return what the agent says of itself."""
        release, person, _ = self._durable.in_use
        return Status(
            release=person.release,
            architecture=release.manifest.architecture,
            labels=release.labels,
            personal_version=person.version,
            kept=len(person.replay),
            corrections=person.replay.next_position,
            recognitions=self.recognitions,
            ge_accuracy=person.ge_accuracy,
            accuracy=person.accuracy,
            learning=self._learner.is_learning,
            learnings=self._learner.learnings,
            learning_seconds=self._learner.learning_seconds,
            store_bytes=self._store.size,
            notices=tuple(self._store.notices),
        )

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, from any thread, after each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self) -> None:
        for listener in self._listeners.copy():
            listener()

    def _scrub(self) -> None:
        with self._durable.store() as store:
            store.scrub()
