"""The state of one person, on disk and in memory.

A correction is written to disk before memory changes, so a crash loses nothing that was
acknowledged. Reading `in_use` takes no lock; changes take turns.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import safetensors.torch
import structlog
from safetensors import SafetensorError

from fedhw.errors import InputError
from fedhw.experts.gate import Gate
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.personalization.learner import Learner
from fedhw.personalization.person import Base, Person, follow, relearn, take_up
from fedhw.personalization.prequential import Prequential
from fedhw.personalization.recogniser import Recogniser
from fedhw.personalization.replay import Replay
from fedhw.release.release import Release
from fedhw.system.clock import Clock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import Opinion, Selection, Store, StoredMixture
from fedhw_client.store.profile import MAX_ID_LENGTH
from fedhw_client.store.stored_sample import StoredSample

log = structlog.get_logger()


class InUse(NamedTuple):
    """A release, the person's state under it, and their recogniser: replaced in one step."""

    release: Release
    person: Person
    recogniser: Recogniser

    def of_person(self, person: Person) -> "InUse":
        """Return the same release with another state of the person."""
        return InUse(self.release, person, self.recogniser.of_person(person))


class DurablePerson:
    """One person's state in a store and in memory, with at most `capacity` corrections.

    Raises InputError when the store holds what the release does not take, or labels that it does
    not know.
    """

    def __init__(self, release: Release, store: Store, capacity: int, clock: Clock) -> None:
        self.removals = 0
        """How often corrections were undone, forgotten or expired."""
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        self._evicted: set[int] = set()
        self.in_use = self._restored(release, Replay(capacity=capacity))
        """What recognises now; read it once for each use, since it may be replaced at any time."""

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Lend the store and block changes meanwhile."""
        with self._turn:
            yield self._store

    def learn(self, corrections: Sequence[Correction]) -> list[str]:
        """Store corrections durably, all or none, and return their names.

        A name that is stored already is not stored again.
        """
        names = [self._name(correction) for correction in corrections]
        named = dict(zip(names, corrections, strict=True))
        with self._turn:
            known = self._store.known(named)
            fresh = [name for name in named if name not in known]
            now, first = self._clock.wall(), self.in_use.person.replay.next_position
            judged = [
                self._judged(first + i, name, now, named[name]) for i, name in enumerate(fresh)
            ]
            self._add([row for row, _ in judged], [opinion for _, opinion in judged])
        return names

    def take_in(self, rows: Sequence[StoredSample]) -> int:
        """Store another device's corrections as the newest, and return how many were new."""
        with self._turn:
            known = self._store.known([row.id for row in rows])
            fresh = [row for row in rows if row.id not in known]
            first = self.in_use.person.replay.next_position
            self._add([row._replace(position=first + i) for i, row in enumerate(fresh)])
        return len(fresh)

    def undo(self) -> StoredSample | None:
        """Remove the newest correction and what was learned from it."""
        with self._turn:
            newest = self._store.newest(1)
            if newest:
                self._remove([newest[0].position])
        return newest[0] if newest else None

    def forget(self, selection: Selection) -> int:
        """Remove corrections and what was learned from them; returns how many there were."""
        with self._turn:
            chosen = self._store.select(selection)
            # The mixture may still contain evicted corrections; one that is learned anew does not.
            if chosen or selection.id is None:
                self._remove(chosen, selection.is_everything)
        return len(chosen)

    def try_to_learn(self) -> InUse:
        """Note that a learning begins, and return the state to learn from."""
        with self._turn:
            self.in_use = self.in_use.of_person(self.in_use.person.tried())
            return self.in_use

    def note_failed(self) -> None:
        """Note that a learning has failed; what was in use stays so."""
        with self._turn:
            self.in_use = self.in_use.of_person(replace(self.in_use.person, has_failed=True))

    def take_up(self, learned: Person) -> bool:
        """Use what was learned unless it is stale; returns whether it is used."""
        with self._turn:
            before = self.in_use.person.version
            self.in_use = self.in_use.of_person(take_up(learned, self.in_use.person))
            is_new = self.in_use.person.version > before
            if is_new:
                self._persist(self.in_use)
        return is_new

    def move(self, release: Release, learned: Person, install: Callable[[], object]) -> None:
        """Use another release with what was learned for it and the corrections since then.

        `install` puts the release where the next start looks for it; when it raises, nothing has
        changed. A crash after it leaves a mixture of the release before; the next start learns it
        anew.
        """
        base = base_of(release)
        recogniser = Recogniser.of(base, release.labels)
        with self._turn:
            [person] = follow([learned], [self.in_use.person], base, lambda: None)
            install()
            in_use = InUse(release, person, recogniser.of_person(person))
            self._persist(in_use)
            self.in_use = in_use

    def _name(self, correction: Correction) -> str:
        self.in_use.release.labels.index(correction.label)
        if len(correction.id) > MAX_ID_LENGTH:
            raise InputError(
                f"id: {len(correction.id)} characters are over {MAX_ID_LENGTH}; give a shorter name"
            )
        return correction.id or uuid.uuid4().hex

    def _judged(
        self, position: int, id: str, at: float, correction: Correction
    ) -> tuple[StoredSample, Opinion]:
        """Return a correction's row, and how each expert judged it before."""
        guess = self.in_use.recogniser.predict_one(correction.observation)
        label = correction.label
        row = StoredSample(
            position=position,
            id=id,
            at=at,
            observation=self.in_use.release.observation.to_bytes(correction.observation),
            label=label,
            ge_right=guess.ge_label == label,
            right=guess.label == label,
        )
        le_label = guess.ge_label if guess.le_label is None else guess.le_label
        return row, Opinion(position, le_label == label, guess.opening > 0.5)

    def _add(self, rows: Sequence[StoredSample], opinions: Sequence[Opinion] = ()) -> None:
        self._store.append(rows, self._evicted, opinions)
        self._evicted.clear()
        replay, person = self.in_use.person.replay, self.in_use.person
        for row in rows:
            person = person.count(row.ge_right, row.right)
        person = replace(person, replay=self._replayed(replay, rows, self.in_use.recogniser))
        self.in_use = self.in_use.of_person(person)

    def _replayed(
        self, replay: Replay, rows: Sequence[StoredSample], recogniser: Recogniser
    ) -> Replay:
        """Add stored rows to a replay; evicted rows leave the store with the next append."""
        stored = {sample.position for sample in replay.samples} | {row.position for row in rows}
        for row in rows:
            observation = recogniser.observation.from_bytes(row.observation)
            features, label = recogniser.features(observation), recogniser.labels.index(row.label)
            replay = replay.skip_to(row.position).add(observation, features, label)
        self._evicted |= stored - {sample.position for sample in replay.samples}
        return replay

    def _remove(self, positions: Sequence[int], everything: bool = False) -> None:
        self._store.remove(positions, everything)
        self.removals += 1
        left = self._recounted(self.in_use.person.forget(set(positions)))
        self.in_use = self.in_use.of_person(left)
        base = base_of(self.in_use.release)
        [person] = relearn([left], base, Learner(), forced=True)
        self.in_use = self.in_use.of_person(person)
        self._persist(self.in_use)

    def _restored(self, release: Release, empty: Replay) -> InUse:
        recogniser = Recogniser.of(base_of(release), release.labels)
        rows = self._store.rows()
        unknown = sum(row.label not in release.labels for row in rows)
        if unknown:
            raise InputError(
                f"release: {recogniser.release} does not know the labels of {unknown} stored "
                "corrections; give a release that does, or another --home"
            )
        self._check_observations(release, rows)
        replay = self._replayed(empty, rows, recogniser).skip_to(self._store.next_position)
        version = self._store.personal_version
        person = Person(replay, recogniser.release, self._mixture(release), version)
        person = self._recounted(person)
        return InUse(release, person, recogniser.of_person(person))

    def _check_observations(self, release: Release, rows: Sequence[StoredSample]) -> None:
        """Raise InputError unless the release takes what is stored; record what it takes."""
        takes, stored = release.observation, self._store.observation
        if stored == takes:
            return
        # Older stores have not recorded their type, only so many bytes.
        if rows and (stored or any(len(row.observation) != takes.nbytes for row in rows)):
            raise InputError(
                f"release: {release.manifest.name} takes {takes}, unlike {len(rows)} stored "
                f"corrections of {stored or 'another type'}; give a release that takes them, or "
                "another --home"
            )
        self._store.set_observation(takes)

    def _recounted(self, person: Person) -> Person:
        """Recount the guesses: all of them from the windows, recent ones from the rows."""
        ge, both = Prequential(), Prequential()
        for row in self._store.rows():
            ge, both = ge.after(row.ge_right), both.after(row.right)
        guesses, ge_right, right = self._store.totals()
        return replace(
            person,
            ge_accuracy=ge._replace(guesses=guesses, right=ge_right),
            accuracy=both._replace(guesses=guesses, right=right),
        )

    def _mixture(self, release: Release) -> Mixture | None:
        """Return the mixture in the store, if it is whole and fits the release."""
        stored = self._store.personal
        if stored is None or stored.release != release.manifest.digest:
            return None
        try:
            tensors = safetensors.torch.load(stored.tensors)
            local = LocalExpert(tensors["u"], tensors["v"], tensors["b"])
            return Mixture(local, Gate(tensors["w"], tensors["c"]))
        except (SafetensorError, KeyError):
            return None

    def _persist(self, in_use: InUse) -> None:
        """Store the mixture, so that it need not be learned again after a restart."""
        release, person, _ = in_use
        content = None
        if person.mixture is not None:
            tensors = person.mixture.local._asdict() | person.mixture.gate._asdict()
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            content = StoredMixture(release.manifest.digest, safetensors.torch.save(whole))
        try:
            self._store.set_personal(content, person.version)
        except StoreError as error:
            log.warning("mixture not stored", reason=str(error))


def base_of(release: Release) -> Base:
    """Return the part of a release that is the same for everybody."""
    return Base(release.expert, release.sketch, release.manifest.name)
