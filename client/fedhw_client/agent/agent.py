"""The agent of one person: recognises, keeps every correction, learns in the background.

Any thread may call. Recognising takes no lock and waits for nothing. Changes take turns, and each
is on disk before it is in memory, so a crash at any moment leaves what was acknowledged.
"""

import os
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import eq
from typing import NamedTuple

import numpy as np
import safetensors.torch
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError

from fedhw.data.writers import SIDE
from fedhw.errors import InputError
from fedhw.experts.gate import Gate
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.replay import Sample
from fedhw.personalization.stream import Personalizer, Prequential, Recognition, looks_worse
from fedhw.privacy.statistics import Evaluation, Tally
from fedhw.release.release import Release
from fedhw.system.sqlite import StoreError
from fedhw_client.store.corrections import (
    Opinion,
    Selection,
    Store,
    StoredMixture,
    Window,
)
from fedhw_client.store.profile import LONGEST_ID, Profile
from fedhw_client.store.stored_sample import StoredSample

CAPACITY = 2000
"""Corrections that are kept; which ones make room follows from the replay policy."""

MOST_AT_ONCE = 1000
"""Corrections in one call."""

PROCESSOR_SHARE = 0.25
"""Of one core, what learning takes while it keeps up with the corrections."""

DAY = 86_400.0
EXPIRY_CHECK = 600.0
"""Seconds between two looks for corrections that are too old."""

log = structlog.get_logger()


class Correction(NamedTuple):
    """A glyph uint8 [28, 28], ink 255 on paper 0, the character that was meant, and its name."""

    glyph: NDArray[np.uint8]
    label: str
    id: str = ""


class Kept(NamedTuple):
    """A correction that is kept, its time in Unix seconds, and whether it had been recognised."""

    position: int
    id: str
    at: float
    glyph: NDArray[np.uint8]
    label: str
    ge_right: bool
    right: bool


@dataclass(frozen=True)
class Status:
    """What the agent says of itself; counts only."""

    release: str
    architecture: str
    alphabet: str
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


class _InUse(NamedTuple):
    """A release and what was learned for it: replaced in one step, so that they fit each other."""

    release: Release
    personalizer: Personalizer


class Agent:
    """Recognises one person's characters and learns from the corrections in a store.

    `keep_days` limits how long a correction is kept. Raises InputError when the store holds
    characters that the release does not know.
    """

    def __init__(self, release: Release, store: Store, keep_days: float | None = None) -> None:
        self.recognitions = 0
        self.learnings = 0
        self.learning_seconds = 0.0
        self.removals = 0
        """How often corrections were taken back, or grew too old."""
        self._store = store
        self._keep_days = keep_days
        self._evicted: list[int] = []
        person = Personalizer(
            release.expert,
            release.sketch,
            release.alphabet,
            replace(Learner(), pause=self._breathe),
            capacity=CAPACITY,
            release=release.manifest.name,
        )
        self._in_use = _InUse(release, person)
        # Who needs both takes `_learning` first.
        self._learning = threading.Lock()
        self._changing = threading.Lock()
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._in_background = self._adopting = False
        self._is_awaited = False
        self._listeners: list[Callable[[], None]] = []
        self._restore()
        self._thread = threading.Thread(target=self._learn_when_due, name="learner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop learning and close the store."""
        self._stopping.set()
        self._due.set()
        self._thread.join()
        with self._learning, self._changing:
            self._store.close()

    @property
    def release(self) -> Release:
        """The release in use."""
        return self._in_use.release

    @property
    def release_name(self) -> str:
        """The name of the release in use."""
        return self._personalizer.release

    @property
    def _personalizer(self) -> Personalizer:
        return self._in_use.personalizer

    @property
    def is_alive(self) -> bool:
        """Whether the learner still runs."""
        return self._thread.is_alive()

    def recognize(self, glyph: NDArray[np.uint8]) -> Recognition:
        """Recognise a glyph uint8 [28, 28]; raises InputError for one that is none."""
        recognition = self._personalizer.predict_one(glyph)
        self.recognitions += 1
        return recognition

    def learn(self, corrections: Sequence[Correction]) -> list[str]:
        """Store corrections durably, all or none, and return their names.

        A name that is stored already is not stored again. Raises InputError for a glyph or a label
        that is none, for over 1,000 corrections, and StoreFullError.
        """
        if len(corrections) > MOST_AT_ONCE:
            raise InputError(
                f"corrections: {len(corrections)} are over {MOST_AT_ONCE}; send them in parts"
            )
        names = [self._name(correction) for correction in corrections]
        named = dict(zip(names, corrections, strict=True))
        with self._changing:
            known = self._store.known(named)
            fresh = [(name, named[name]) for name in named if name not in known]
            now, position = time.time(), self._personalizer.replay.seen
            judged = [
                self._judged(position + i, name, now, correction)
                for i, (name, correction) in enumerate(fresh)
            ]
            self._add([row for row, _ in judged], [opinion for _, opinion in judged])
        self._changed()
        return names

    def undo(self) -> Kept | None:
        """Take back the newest correction and what was learned from it."""
        with self._learning, self._changing:
            newest = self._store.newest(1)
            if newest:
                self._remove([newest[0].position])
        self._changed()
        try:
            self._scrub()
        except StoreError as error:
            # It is taken back all the same: whoever asked again would lose another one.
            log.warning("traces are left", reason=str(error))
        return _kept(newest[0]) if newest else None

    def forget(self, selection: Selection) -> int:
        """Erase corrections and what was learned from them; returns how many there were.

        Raises StoreError when traces are left on the disk; asked again, it tries again.
        """
        with self._learning, self._changing:
            chosen = self._store.select(selection)
            # What made room long ago may still speak in the mixture, but not in one learned now.
            if chosen or selection.id is None:
                self._remove(chosen, selection.is_everything)
        self._changed()
        self._scrub()
        log.info("forgot", corrections=len(chosen))
        return len(chosen)

    def adopt(self, release: Release, install: Callable[[], object] = lambda: None) -> bool:
        """Use another release unless it is worse for this person; returns whether it is in use.

        A rollback is followed in any case. What was learned is learned anew for it, and both judge
        the corrections that neither has learned from. `install` must put the release where the next
        start looks for it. Raises InputError for another alphabet, StoreError when the agent is
        closed, and whatever `install` raises; nothing has changed then.
        """
        with self._trying(release):
            return self._adopt(release, install)

    def evaluate(self, release: Release) -> Evaluation:
        """Count how another release would do for this person, and change nothing.

        Raises InputError for another alphabet and StoreError when the agent is closed.
        """
        with self._trying(release):
            old, new = self._personalizer, self._learned_for(release)
            # On the others the candidate may have been trained, in rounds that this device was in.
            judges = new.replay.held_back(CAPACITY)
            return Evaluation(
                held_back=len(judges),
                candidate_ge_right=_ge_right(new, judges),
                ge_right=_ge_right(old, judges),
                candidate_right=int(new.right_on(judges).sum()),
                right=int(old.right_on(judges).sum()),
            )

    @contextmanager
    def _trying(self, release: Release) -> Iterator[None]:
        """Learn for another release meanwhile, and nothing else."""
        if release.alphabet != self.release.alphabet:
            raise InputError(
                f"release: the alphabet of {release.manifest.name} is not that of "
                f"{self.release_name}; give a release of the same alphabet"
            )
        self._adopting = True
        self._changed()
        try:
            with self._learning:
                if self._stopping.is_set():
                    raise StoreError("release: the agent is stopping; offer it again later")
                yield
        finally:
            self._adopting = False
            self._changed()

    def _learned_for(self, release: Release) -> Personalizer:
        """What was learned, learned anew for another release."""
        began = time.thread_time()
        old, name = self._personalizer, release.manifest.name
        new = replace(old, expert=release.expert, sketch=release.sketch, release=name)
        new.follow(old)
        new.adopt(None, old.version)
        if not new.relearn() and old.personal is not None:
            new.adopt(None, old.version + 1)
        self.learnings += 1
        self.learning_seconds += time.thread_time() - began
        return new

    def _adopt(self, release: Release, install: Callable[[], object]) -> bool:
        old, new, name = self._personalizer, self._learned_for(release), release.manifest.name
        judges = new.replay.held_back(CAPACITY)
        # The operator goes back to an older release for a reason that no device can see.
        is_rollback = release.manifest.restores is not None
        if not is_rollback and looks_worse(new.right_on(judges), old.right_on(judges)):
            log.info("held back", release=name)
            return False
        new.follow(old)  # all but the very last, so that no correction waits for long
        with self._changing:
            new.follow(old)
            # A crash before the second step leaves a mixture that the release does not fit; the
            # next start learns it anew.
            install()
            in_use = _InUse(release, new)
            self._persist(in_use)
            self._in_use = in_use
        if new.due:
            self._due.set()
        log.info("adopted", release=name, version=new.version)
        return True

    def export_profile(self, passphrase: str) -> bytes:
        """Return every correction, encrypted; raises InputError for a short passphrase."""
        with self._changing:
            rows = self._store.rows()
        return Profile(rows, self.release.alphabet).seal(passphrase)

    def import_profile(self, content: bytes, passphrase: str) -> int:
        """Add the corrections of a profile, as the newest here, and return how many were new.

        Raises InputError for a profile that cannot be opened or holds characters that the release
        does not know.
        """
        profile = Profile.unseal(content, passphrase)
        unknown = sum(row.label not in self.release.alphabet for row in profile.rows)
        if unknown:
            raise InputError(
                f"profile: the characters of {unknown} corrections are not in the alphabet of "
                f"{self.release_name}; use a release that has them"
            )
        with self._changing:
            known = self._store.known([row.id for row in profile.rows])
            fresh = [row for row in profile.rows if row.id not in known]
            position = self._personalizer.replay.seen
            self._add([row._replace(position=position + i) for i, row in enumerate(fresh)])
        self._due.set()
        self._changed()
        log.info("imported", corrections=len(fresh))
        return len(fresh)

    def recent(self, n: int) -> list[Kept]:
        """Return at most n corrections, the newest first."""
        with self._changing:
            rows = self._store.newest(n)
        return [_kept(row) for row in rows]

    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return glyphs [N, 28, 28] and classes [N] of what is kept and may be learned from.

        What is held back judges releases, so no release may have learned from it either.
        """
        kept = [each for each in self._personalizer.replay.samples() if not each.is_held_back]
        images = np.array([each.glyph for each in kept], np.uint8).reshape(-1, SIDE, SIDE)
        return images, np.array([each.label for each in kept], np.int64)

    def progress(self, n: int = 250) -> list[Window]:
        """Return how guesses went in the n newest windows of 20 corrections, the oldest first."""
        with self._changing:
            return self._store.windows(n)

    def tally(self, start: float, end: float, latencies: tuple[int, ...]) -> Tally:
        """Count what happened from `start` up to `end`, Unix seconds.

        Of corrections only those that are still kept count; `latencies` counts recognitions by the
        bounds in `fedhw.privacy.statistics.LATENCIES`.
        """
        with self._changing:
            judged = self._store.judged(start, end)
        wrong = Counter(one.label for one in judged if not one.right)
        return Tally(
            corrections=len(judged),
            ge_right=sum(one.ge_right for one in judged),
            le_right=sum(one.le_right for one in judged),
            right=sum(one.right for one in judged),
            opened=sum(one.opened for one in judged),
            recognitions=sum(latencies),
            errors=tuple(wrong[label] for label in self.release.alphabet),
            latencies=latencies,
        )

    def status(self) -> Status:
        """Return what the agent says of itself."""
        release, person = self._in_use
        return Status(
            release=person.release,
            architecture=release.manifest.architecture,
            alphabet=release.alphabet,
            personal_version=person.version,
            kept=len(person.replay),
            corrections=person.replay.seen,
            recognitions=self.recognitions,
            ge_accuracy=replace(person.ge_accuracy),
            accuracy=replace(person.accuracy),
            learning=self._in_background or self._adopting,
            learnings=self.learnings,
            learning_seconds=self.learning_seconds,
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

    def _name(self, correction: Correction) -> str:
        self._personalizer.check_label(correction.label)
        if len(correction.id) > LONGEST_ID:
            raise InputError(
                f"id: {len(correction.id)} characters are over {LONGEST_ID}; give a shorter name"
            )
        return correction.id or uuid.uuid4().hex

    def _judged(
        self, position: int, id: str, at: float, correction: Correction
    ) -> tuple[StoredSample, Opinion]:
        guess = self._personalizer.predict_one(correction.glyph)
        label = correction.label
        row = StoredSample(
            position=position,
            id=id,
            at=at,
            glyph=correction.glyph.tobytes(),
            label=label,
            ge_right=guess.ge_label == label,
            right=guess.label == label,
        )
        le_label = guess.ge_label if guess.le_label is None else guess.le_label
        return row, Opinion(position, le_label == label, guess.opening > 0.5)

    def _add(self, rows: Sequence[StoredSample], opinions: Sequence[Opinion] = ()) -> None:
        self._store.append(rows, self._evicted, opinions)
        self._evicted.clear()
        for row in rows:
            self._keep(row)
            self._personalizer.ge_accuracy.update(row.ge_right)
            self._personalizer.accuracy.update(row.right)
        if self._personalizer.due:
            self._due.set()

    def _keep(self, row: StoredSample) -> None:
        replay = self._personalizer.replay
        replay.seen = row.position
        evicted = self._personalizer.keep(_glyph(row), row.label)
        if evicted is not None:
            self._evicted.append(evicted.position)

    def _remove(self, positions: list[int], everything: bool = False) -> None:
        self._store.remove(positions, everything)
        self._personalizer.replay.remove(set(positions))
        self.removals += 1
        self._recount()
        self._is_awaited = True
        try:
            self._personalizer.relearn(forced=True)
        finally:
            self._is_awaited = False
        self._persist(self._in_use)

    def _restore(self) -> None:
        rows = self._store.rows()
        unknown = sum(row.label not in self.release.alphabet for row in rows)
        if unknown:
            raise InputError(
                f"release: {self.release_name} does not know the characters of {unknown} stored "
                "corrections; give a release that does, or another --home"
            )
        for row in rows:
            self._keep(row)
        replay = self._personalizer.replay
        replay.seen = max(replay.seen, self._store.next_position)
        self._recount()
        personal = self._mixture()
        self._personalizer.adopt(personal, self._store.personal_version)
        if rows and personal is None:
            self._due.set()

    def _recount(self) -> None:
        """Count guesses anew: all from the windows, the recent ones from what is kept."""
        ge, mixture = Prequential(), Prequential()
        for row in self._store.rows():
            ge.update(row.ge_right)
            mixture.update(row.right)
        guesses, ge.right, mixture.right = self._store.totals()
        ge.guesses = mixture.guesses = guesses
        self._personalizer.ge_accuracy, self._personalizer.accuracy = ge, mixture

    def _mixture(self) -> PersonalMixture | None:
        """The mixture in the store, if it is whole and fits the release."""
        personal = self._store.personal
        if personal is None or personal.release != self.release.manifest.digest:
            return None
        try:
            tensors = safetensors.torch.load(personal.tensors)
            local = LocalExpert(tensors["u"], tensors["v"], tensors["b"])
            return PersonalMixture(Mixture(local, Gate(tensors["w"], tensors["c"])))
        except (SafetensorError, KeyError):
            return None

    def _scrub(self) -> None:
        with self._changing:
            self._store.scrub()

    def _persist(self, in_use: _InUse) -> None:
        """Keep the mixture in use, so that it need not be learned again after a restart."""
        release, person = in_use
        personal = person.personal
        content = None
        if personal is not None:
            tensors = personal.mixture.local._asdict() | personal.mixture.gate._asdict()
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            content = StoredMixture(release.manifest.digest, safetensors.torch.save(whole))
        try:
            self._store.set_personal(content, person.version)
        except StoreError as error:
            log.warning("mixture not stored", reason=str(error))

    def _learn_when_due(self) -> None:
        step_back()
        while True:
            self._due.wait(EXPIRY_CHECK)
            if self._stopping.is_set():
                return
            if self._due.is_set():
                self._due.clear()
                self._learn_in_background()
            self._expire()

    def _learn_in_background(self) -> None:
        self._in_background = True
        self._changed()
        began = time.thread_time()
        try:
            with self._learning:
                swapped = self._personalizer.relearn()
                if swapped:
                    with self._changing:
                        self._persist(self._in_use)
            log.info("learned", swapped=swapped, version=self._personalizer.version)
        finally:
            self._in_background = False
            self.learnings += 1
            self.learning_seconds += time.thread_time() - began
            self._changed()

    def _breathe(self) -> None:
        """Leave the processor to others for a while, if nobody waits for what is being learned."""
        if self._is_awaited or self._stopping.is_set():
            return
        now = time.thread_time()
        worked = min(max(now - self._last_breath, 0.0), 0.01)  # the last may be another thread's
        behind = self._personalizer.due  # again, while it learns
        time.sleep(0 if behind else worked * (1 / PROCESSOR_SHARE - 1))
        self._last_breath = time.thread_time()

    _last_breath = 0.0

    def _expire(self) -> None:
        """Forget what is older than may be kept."""
        if self._keep_days is None:
            return
        expired = Selection(end=time.time() - self._keep_days * DAY)
        try:
            with self._changing:
                found = self._store.select(expired)
            if found:
                self.forget(expired)
        except StoreError as error:
            log.warning("not forgotten yet", reason=str(error))


def _ge_right(person: Personalizer, samples: Sequence[Sample]) -> int:
    """How many of these samples the global expert by itself recognises."""
    guesses = [person.predict_one(sample.glyph).ge_label for sample in samples]
    return sum(map(eq, guesses, [person.alphabet[sample.label] for sample in samples]))


def step_back() -> None:
    """Let every other thread go before this one, where the system can."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _glyph(row: StoredSample) -> NDArray[np.uint8]:
    return np.frombuffer(row.glyph, np.uint8).reshape(SIDE, SIDE)


def _kept(row: StoredSample) -> Kept:
    return Kept(row.position, row.id, row.at, _glyph(row), row.label, row.ge_right, row.right)
