"""A coordinator and six people's devices, from the invitation to a rollback."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw_client.store.corrections import Store
from tests.integration.account import missing_windows, until_settled
from tests.integration.conftest import AgentProcess, Character, CoordinatorProcess
from tests.places import SHARED
from tests.releases import published, shuffled
from tests.waiting import until

pytestmark = pytest.mark.superlink

NAMES = ("anna", "berta", "carl", "dora", "emil", "frida")
FEW, FIRST, EACH = 15, 40, 100
"""Characters that everybody has written: at first, before the window that is looked at, in all."""

WINDOW = 15
"""Seconds; a burst of corrections fits in it."""

UNIPEN = SHARED / "unipen62.npz"


@dataclass
class Person:
    """Somebody who writes on a device."""

    name: str
    writing: list[Character]
    agent: AgentProcess
    begun: datetime | None = None
    """When the few first characters were written."""

    def begin(self) -> None:
        """Correct the first characters, and wait until something is learned from them."""
        with self.agent.connect() as device:
            device.learn_many(self.writing[:FEW])
            self.begun = datetime.now(UTC)
            device.learn_many(self.writing[FEW:FIRST])
            until(lambda: device.status().personal_version > 0)

    def go_on(self) -> None:
        """Have each of the others recognised, and correct it."""
        with self.agent.connect() as device:
            for character in self.writing[FIRST:]:
                device.recognize(character.glyph)
                device.learn(*character)


@dataclass
class Running:
    """A fleet."""

    coordinator: CoordinatorProcess
    people: list[Person]

    def estimates(self, window: int) -> dict[str, dict[str, Any]]:
        printed = self.coordinator.command("statistics", "--window", window, "--json")
        return {each["name"]: each for each in json.loads(printed)["estimates"]}


def characters(writers: WriterSet, writer: int) -> list[Character]:
    rows = writers.rows_of(writer)[:EACH]
    labels = [writers.classes[writers.labels[row]] for row in rows]
    return [Character(*pair) for pair in zip(writers.observations[rows], labels, strict=True)]


@pytest.fixture(scope="module")
def writing(unseen_writers: WriterSet) -> list[list[Character]]:
    """What six people write: real handwriting where it is at hand, else made."""
    writers = load_npz(UNIPEN) if UNIPEN.exists() else unseen_writers
    busy = np.flatnonzero(writers.counts() >= 150)[: len(NAMES)]
    return [characters(writers, int(writer)) for writer in busy]


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
    release_directory: Path,
    writing: list[list[Character]],
) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("fleet")
    policy = ("--window", WINDOW, "--epsilon", 400, "--minimum-cohort", len(NAMES))
    coordinator = CoordinatorProcess(place / "coordinator", *policy)
    people: list[Person] = []
    try:
        coordinator.until_ready()
        for name, written in zip(NAMES, writing, strict=True):
            enroll = ("--enroll", coordinator.invite(name))
            budget = ("--epsilon-per-day", 1e6, "--epsilon-in-all", 1e6)
            people.append(Person(name, written, AgentProcess(place / name, *enroll, *budget)))
        coordinator.command("publish", release_directory)
        yield Running(coordinator, people)
    finally:
        for person in people:
            person.agent.kill()
        coordinator.kill()


def newest(fleet: Running) -> str:
    """The name of the newest release, as the operator sees it."""
    return str(json.loads(fleet.coordinator.command("status", "--json"))["release"])


def test_everybody_is_let_in_and_gets_the_release(fleet: Running) -> None:
    for person in fleet.people:
        person.agent.until_ready()
    fleet.coordinator.until_running(newest(fleet))
    listed = json.loads(fleet.coordinator.command("devices", "--json"))
    assert {each["name"] for each in listed} == set(NAMES)
    assert {each["state"] for each in listed} == {"enrolled"}
    for person in fleet.people:
        with person.agent.connect() as device:
            assert device.status().release == newest(fleet)


def test_they_learn_and_the_fleet_sees_how_much(fleet: Running) -> None:
    together(person.begin for person in fleet.people)
    time.sleep(WINDOW - time.time() % WINDOW)
    window = int(time.time() // WINDOW)
    together(person.go_on for person in fleet.people)
    for person in fleet.people:
        with person.agent.connect() as device:
            assert device.status().kept == EACH
    with fleet.coordinator.fleet() as known:
        until(lambda: dict(known.reports.windows()).get(window) == len(NAMES))
    seen = fleet.estimates(window)["gain"]
    gains = [gain(person.agent.home, window) for person in fleet.people]
    # Its standard error is never less than that of the noise, and Student's t makes it four times
    # as wide to either side: it misses once in ten thousand runs.
    assert seen["low"] <= np.mean(gains) <= seen["high"]
    assert seen["cohort"] == len(NAMES)
    assert seen["high"] - seen["low"] < 1  # what could be said without having asked anybody


def together(people: Iterable[Callable[[], None]]) -> None:
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(one) for one in people]:
            done.result()


def gain(home: Path, window: int) -> float:
    """By how much a mixture was better than the global expert, counted where it happened."""
    copy = home.with_name(f"copy-of-{home.name}")
    copy.mkdir(exist_ok=True)
    for part in home.glob("device.db*"):
        shutil.copy(part, copy)
    with closing(Store(copy / "device.db")) as store:
        judged = store.judged(window * WINDOW, (window + 1) * WINDOW)
    assert judged
    return (sum(one.right for one in judged) - sum(one.ge_right for one in judged)) / len(judged)


def test_everybody_takes_a_second_release_and_follows_a_rollback(
    fleet: Running, release: Release, tmp_path: Path
) -> None:
    for person in fleet.people:  # so few corrections are left that no release can look worse
        with person.agent.connect() as device:
            assert device.forget(start=person.begun) == EACH - FEW
    home = fleet.coordinator.home
    registry = Registry(home / "releases", ReleaseKey.load(home / "release.key"))
    published(registry, release, shuffled(1), tmp_path / "second")
    second = newest(fleet)
    assert second.startswith("v2-")
    fleet.coordinator.until_running(second)
    fleet.coordinator.command("rollback", 1)
    third = newest(fleet)
    assert third.startswith("v3-")
    fleet.coordinator.until_running(third)
    for person in fleet.people:
        with person.agent.connect() as device:
            status = device.status()
            assert (status.release, status.kept) == (third, FEW)
            answer = device.recognize(person.writing[0].glyph)
            assert answer.release == third
    known = json.loads(fleet.coordinator.command("releases", "--json"))["releases"]
    assert [each["restores"] for each in known] == [None, None, 1]
    for name in ("weights.safetensors", "sketch.safetensors"):
        assert known[2]["files"][name] == known[0]["files"][name]


def test_all_that_was_told_was_heard_and_in_order(fleet: Running) -> None:
    homes = [person.agent.home for person in fleet.people]
    until_settled(fleet.coordinator, homes)
    for home in homes:
        assert missing_windows(home) == set()
    for person in fleet.people:
        assert person.agent.stop() == 0
        assert "Traceback" not in person.agent.logged
    assert fleet.coordinator.stop() == 0
    assert "Traceback" not in fleet.coordinator.logged
