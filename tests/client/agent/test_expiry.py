import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedhw.release.release import Release
from fedhw.system.clock import DAY_SECONDS, SettableClock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.durable_person import DurablePerson
from fedhw_client.agent.expiry import LONGEST_PAUSE_SECONDS, Expiry
from fedhw_client.store.corrections import Selection, Store
from tests.waiting import until

GLYPH = np.eye(28, dtype=np.uint8) * 255


class Forgetting:
    """Forgets as an agent does, and notes when it was asked to."""

    def __init__(self, durable: DurablePerson, refusals: int = 0) -> None:
        self.asked = threading.Semaphore(0)
        self._durable = durable
        self._refusals = refusals

    def forget(self, selection: Selection) -> None:
        try:
            if self._refusals:
                self._refusals -= 1
                raise StoreError("store: it cannot be used; check the home")
            self._durable.forget(selection)
        finally:
            self.asked.release()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def durable(release: Release, tmp_path: Path, clock: SettableClock) -> Iterator[DurablePerson]:
    with closing(Store(tmp_path / "device.db")) as store:
        yield DurablePerson(release, store, 16, clock)


def labels(durable: DurablePerson) -> str:
    alphabet = durable.in_use.release.labels
    return "".join(alphabet[sample.label] for sample in durable.in_use.person.replay.samples)


def look_until_forgotten(durable: DurablePerson, clock: SettableClock) -> None:
    """Let the time pass in which it looks once, until it has."""
    until(lambda: clock.advance(LONGEST_PAUSE_SECONDS) or not labels(durable))


def test_what_is_too_old_at_the_start_is_forgotten_and_nothing_else(durable, clock):
    durable.learn([Correction(GLYPH, "Q")])
    clock.advance(DAY_SECONDS)
    durable.learn([Correction(GLYPH, "7")])
    clock.advance(DAY_SECONDS)
    forgetting = Forgetting(durable)
    with closing(Expiry(durable, forgetting.forget, 1.5, clock)):
        assert forgetting.asked.acquire(timeout=60)
    assert labels(durable) == "7"


def test_it_looks_again_from_time_to_time(durable, clock):
    forgetting = Forgetting(durable)
    durable.learn([Correction(GLYPH, "Q")])
    with closing(Expiry(durable, forgetting.forget, 1.0, clock)):
        clock.advance(DAY_SECONDS)
        look_until_forgotten(durable, clock)
    assert durable.removals == 1


def test_what_could_not_be_forgotten_is_tried_again(durable, clock):
    forgetting = Forgetting(durable, refusals=1)
    durable.learn([Correction(GLYPH, "Q")])
    clock.advance(2 * DAY_SECONDS)
    with closing(Expiry(durable, forgetting.forget, 1.0, clock)) as expiry:
        assert forgetting.asked.acquire(timeout=60)
        assert labels(durable) == "Q"
        assert expiry.is_alive
        look_until_forgotten(durable, clock)


def test_once_closed_it_looks_no_more(durable, clock):
    expiry = Expiry(durable, durable.forget, 1.0, clock)
    expiry.close()
    assert not expiry.is_alive
