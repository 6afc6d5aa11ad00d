"""The agent of one person: recognises, stores corrections, and learns in the background.

It is safe to call from any thread. Recognising takes no lock.
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
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.durable_person import DurablePerson
from fedhw_client.agent.expiry import Expiry
from fedhw_client.store.corrections import Selection, Store, Window
from fedhw_client.store.profile import Profile, most_bytes
from fedhw_client.store.stored_sample import StoredSample

CAPACITY = 2000
"""Corrections that are kept; the replay policy decides which ones are evicted."""

MAX_CORRECTIONS = 1000
"""Corrections that one call may bring."""

LEARNING_FAILED = (
    "The last learning failed, so recognition goes on without it; the corrections are kept."
)
"""The notice in a status until a learning succeeds."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Status:
    """An agent's status: names and counts, no content."""

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
    """Recognises one person's observations and learns from the corrections in a store.

    It keeps at most `capacity` corrections, each for at most `keep_days`. Raises InputError where
    the store holds observations or labels that the release does not take.
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
        """The person's present state, an immutable value."""
        return self._durable.in_use.person

    @property
    def removals(self) -> int:
        """How often corrections were undone, forgotten or expired."""
        return self._durable.removals

    @property
    def is_alive(self) -> bool:
        """Whether the background threads still run."""
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
        if len(corrections) > MAX_CORRECTIONS:
            raise InputError(
                f"corrections: {len(corrections)} are over {MAX_CORRECTIONS}; send them in parts"
            )
        names = self._durable.learn(corrections)
        self._learner.wake_if_due()
        self._changed()
        return names

    def undo(self) -> StoredSample | None:
        """Remove the newest correction and what was learned from it."""
        with self._learner.paused():
            undone = self._durable.undo()
        self._changed()
        try:
            self._scrub()
        except StoreError as error:
            # The correction is removed all the same: a retry would remove another one.
            log.warning("traces are left", reason=str(error))
        return undone

    def forget(self, selection: Selection) -> int:
        """Erase corrections and what was learned from them; returns how many there were.

        Raises StoreError when traces are left on the disk; a second call tries again.
        """
        with self._learner.paused():
            forgotten = self._durable.forget(selection)
        self._changed()
        self._scrub()
        log.info("forgot", corrections=forgotten)
        return forgotten

    def adopt(self, release: Release, install: Callable[[], object] = lambda: None) -> bool:
        """Use another release unless it is worse for this person; returns whether it is in use.

        A rollback is always followed. Local expert and gate are learned anew for the release; both
        mixtures are then compared on corrections that neither has learned from. `install` must put
        the release where the next start looks for it. Raises InputError for other labels or
        observations, StoreError when the agent is closed, and what `install` raises; nothing has
        changed then.
        """
        return self._learner.adopt(release, install)

    def evaluate(self, release: Release) -> Evaluation:
        """Evaluate another release for this person, and change nothing.

        Raises InputError for other labels or observations, and StoreError when the agent is closed.
        """
        return self._learner.evaluate(release)

    def export_profile(self, passphrase: str) -> bytes:
        """Return every correction, encrypted; raises InputError for a short passphrase."""
        with self._durable.store() as store:
            kept = {sample.position for sample in self.person.replay.samples}
            rows = [row for row in store.rows() if row.position in kept]
        return Profile(rows, self.release.observation, self.release.labels).seal(passphrase)

    def import_profile(self, content: bytes, passphrase: str) -> int:
        """Add the corrections of a profile as the newest, and return how many were new.

        Raises InputError for a profile that cannot be opened or that the release does not fit.
        """
        most = most_bytes(self.release.observation, self.release.labels)
        profile = Profile.unseal(content, passphrase, most)
        profile.check_fits(self.release)
        imported = self._durable.take_in(profile.rows)
        self._learner.wake()
        self._changed()
        log.info("imported", corrections=imported)
        return imported

    def recent(self, n: int) -> list[StoredSample]:
        """Return at most n corrections, the newest first."""
        with self._durable.store() as store:
            return store.newest(n)

    def samples(self) -> tuple[Observations, NDArray[np.int64]]:
        """Return observations [N, *shape] and classes [N] of the corrections to learn from.

        Held-out corrections are left out: they evaluate releases, so no release may learn them.
        """
        kept = self.person.replay.learnable
        observations = self.release.observation.stack([each.observation for each in kept])
        return observations, np.array([each.label for each in kept], np.int64)

    def progress(self, n: int = 250) -> list[Window]:
        """Return the accuracy in the n newest windows of 20 corrections, the oldest first."""
        with self._durable.store() as store:
            return store.windows(n)

    def tally(self, start: float, end: float, latencies: tuple[int, ...]) -> Tally:
        """Count the events from `start` up to `end`, Unix seconds.

        Only corrections that are still kept count. `latencies` has a count of recognitions for each
        bucket of `fedhw.privacy.statistics.LATENCIES`.
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
        """Return the present status."""
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
            notices=(*self._store.notices, *([LEARNING_FAILED] if person.has_failed else [])),
        )

    @property
    def listeners(self) -> int:
        """How many are told of changes, such as open pads."""
        return len(self._listeners)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, from any thread, after each change; returns what removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self) -> None:
        for listener in self._listeners.copy():
            listener()

    def _scrub(self) -> None:
        with self._durable.store() as store:
            store.scrub()
