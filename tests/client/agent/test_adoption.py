import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from fedhw.data.writers import WriterSet
from fedhw.release.manifest import MANIFEST, SKETCH, WEIGHTS, Manifest
from fedhw.release.offer import Answer, Refusal, State
from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import SettableClock
from fedhw_client.agent.adoption import RETRY_SECONDS, Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home
from tests.releases import Change, published, shuffled, spoiling
from tests.waiting import until

SOON = 60.0


class Device(NamedTuple):
    """An agent in its home, what answers for it, and their clock."""

    agent: Agent
    home: Home
    adoption: Adoption
    clock: SettableClock

    def answer(self, parcel: Parcel) -> Answer:
        """Ask, and send the files if they are wanted."""
        answer = self.adoption.consider(parcel.manifest, parcel.signature, {})
        return self.adoption.consider(*parcel) if answer.state is State.WANTED else answer

    def settled(self, parcel: Parcel) -> Answer:
        """The answer once nothing is being learned."""
        until(lambda: self.answer(parcel).state is not State.LEARNING, SOON)
        self.adoption.close()
        return self.answer(parcel)


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "release.key")


@pytest.fixture
def publish(release: Release, key: ReleaseKey, tmp_path: Path) -> Callable[[Change], Parcel]:
    registry = Registry(tmp_path / "registry", key)

    def publish(change: Change) -> Parcel:
        count = len(registry.versions())
        return published(registry, release, change, tmp_path / f"release-{count}")

    publish.registry = registry
    return publish


@pytest.fixture
def home(release_directory: Path, tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.directory.mkdir(0o700)
    home.install(release_directory)
    return home


def started(home: Home, key: ReleaseKey) -> Device:
    clock = SettableClock()
    agent = Agent(Release.load(home.release), Store(home.database), clock=clock)
    return Device(agent, home, Adoption(agent, home, key.public, clock=clock), clock)


@pytest.fixture
def device(home: Home, key: ReleaseKey) -> Iterator[Device]:
    device = started(home, key)
    yield device
    device.agent.close()
    device.adoption.close()


def write(device: Device, writers: WriterSet, n: int = 120) -> None:
    """Correct until something was learned."""
    own = writers.take(writers.rows_of(0)[:n])
    for glyph, label in zip(own.observations, own.labels, strict=True):
        device.agent.learn([Correction(glyph, own.classes[label])])
    until(lambda: device.agent.status().personal_version > 0, SOON)
    until(lambda: not device.agent.status().learning, SOON)


def content(directory: Path) -> dict[str, bytes]:
    """All files of a home but the store's, the lock and when it decided last."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith(("device.db", "agent.lock", "decided"))
    }


def test_a_release_is_wanted_learned_and_run(device, publish, unseen_writers):
    write(device, unseen_writers)
    parcel = publish(shuffled(1))
    manifest = Manifest.parse(parcel.manifest, "the parcel")
    before = device.agent.release_name
    asked = device.adoption.consider(parcel.manifest, parcel.signature, {})
    assert asked == (State.WANTED, before, None)
    assert device.adoption.consider(*parcel) == (State.LEARNING, before, None)
    assert device.settled(parcel) == (State.RUNNING, manifest.name, None)
    # Whether it sends the files or not, all is said.
    assert device.adoption.consider(*parcel) == (State.RUNNING, manifest.name, None)
    assert Release.load(device.home.release).manifest == manifest
    assert {path.name for path in device.home.release.iterdir()} == {
        MANIFEST,
        "manifest.sig",
        WEIGHTS,
        SKETCH,
    }
    assert not device.home.incoming.exists()
    assert device.home.directory.stat().st_mode & 0o777 == 0o700
    device.agent.close()
    with closing(Store(device.home.database)) as store:
        assert store.personal.release == manifest.digest


def test_it_is_learned_in_the_background(device, publish, unseen_writers, monkeypatch):
    write(device, unseen_writers, 20)
    first, second = publish(shuffled(1)), publish(shuffled(2))
    allowed = threading.Event()
    adopt = device.agent.adopt

    def waiting(*arguments: object) -> bool:
        assert allowed.wait(SOON)
        return adopt(*arguments)

    monkeypatch.setattr(device.agent, "adopt", waiting)
    assert device.answer(first).state is State.LEARNING
    assert device.answer(first).state is State.LEARNING
    # One after the other: what comes meanwhile is not even stored.
    assert device.answer(second).state is State.LEARNING
    assert content(device.home.directory)["incoming/manifest.json"] == first.manifest
    allowed.set()
    assert device.settled(first).state is State.RUNNING
    assert device.settled(second).state is State.RUNNING
    assert device.answer(first) == (State.REFUSED, device.agent.release_name, Refusal.VERSION)


def test_a_worse_release_is_held_back_and_not_asked_for_again(device, publish, key, unseen_writers):
    write(device, unseen_writers)
    before, name = content(device.home.directory), device.agent.release_name
    parcel = publish(spoiling)
    digest = Manifest.parse(parcel.manifest, "the parcel").digest
    assert device.settled(parcel) == (State.HELD_BACK, name, None)
    assert content(device.home.directory) == before | {f"held-back/{digest}": b""}
    device.agent.close()
    again = started(device.home, key)
    assert again.adoption.consider(*parcel) == (State.HELD_BACK, name, None)
    # A better one that comes later is taken, and the memory of the older ones goes.
    better = publish(shuffled(3))
    assert again.settled(better).state is State.RUNNING
    assert not device.home.held_back.exists()
    assert again.answer(parcel).refusal is Refusal.VERSION
    again.agent.close()


def test_a_rollback_is_taken_like_any_other_release(device, publish, unseen_writers):
    write(device, unseen_writers, 40)
    first = publish(shuffled(1))
    assert device.settled(first).state is State.RUNNING
    assert device.settled(publish(shuffled(2))).state is State.RUNNING
    registry = publish.registry
    back = registry.parcel(registry.rollback(1).version)
    assert back.files == first.files
    assert device.settled(back) == (State.RUNNING, registry.latest.name, None)
    assert device.answer(first).refusal is Refusal.VERSION


def test_a_rollback_is_followed_even_to_what_is_worse_for_this_person(
    device, publish, unseen_writers
):
    # Nothing tells against it yet.
    assert device.settled(publish(spoiling)).state is State.RUNNING
    assert device.settled(publish(shuffled(1))).state is State.RUNNING
    write(device, unseen_writers)
    registry = publish.registry
    back = registry.parcel(registry.rollback(1).version)
    assert device.settled(back) == (State.RUNNING, registry.latest.name, None)


def test_it_decides_about_one_release_in_a_period(device, publish, key, unseen_writers):
    write(device, unseen_writers)
    device.adoption.close()
    parts = device.agent, device.home, key.public, 3600.0, device.clock
    slow = device._replace(adoption=Adoption(*parts))
    assert slow.settled(publish(spoiling)).state is State.HELD_BACK
    second = publish(shuffled(1))
    # However often it is asked, with files or without, and after a restart, too.
    assert slow.answer(second).state is State.DEFERRED
    assert slow.adoption.consider(*second).state is State.DEFERRED
    again = slow._replace(adoption=Adoption(*parts))
    assert again.answer(second).state is State.DEFERRED
    # A rollback says nothing of the person, so it does not wait.
    registry = publish.registry
    back = registry.parcel(registry.rollback(1).version)
    assert again.settled(back).state is State.RUNNING
    third = publish(shuffled(2))
    assert again.answer(third).state is State.DEFERRED
    device.clock.advance(3600)
    assert again.settled(third).state is State.RUNNING


def test_what_could_not_be_put_to_use_is_not_sent_again_at_once(
    device, publish, unseen_writers, monkeypatch
):
    write(device, unseen_writers, 20)
    parcel = publish(shuffled(1))

    def fails(*_: object) -> bool:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(device.agent, "adopt", fails)
        assert device.settled(parcel).refusal is Refusal.STORE
    assert device.answer(parcel).refusal is Refusal.STORE
    device.clock.advance(RETRY_SECONDS)
    assert device.settled(parcel).state is State.RUNNING


def spoil(parcel: Parcel, name: str) -> Parcel:
    altered = bytearray(parcel.files[name])
    altered[-1] ^= 1
    return parcel._replace(files=parcel.files | {name: bytes(altered)})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda p: p._replace(signature=bytes(64)), Refusal.SIGNATURE),
        (lambda p: p._replace(manifest=p.manifest + b" "), Refusal.SIGNATURE),
        (lambda p: p._replace(manifest=p.manifest[:-5]), Refusal.SIGNATURE),
        (lambda p: p._replace(files={WEIGHTS: p.files[WEIGHTS]}), Refusal.FILES),
        (lambda p: p._replace(files=p.files | {WEIGHTS: p.files[WEIGHTS][:-1]}), Refusal.FILES),
        (lambda p: p._replace(files=p.files | {"../../evil": b"x"}), Refusal.FILES),
        (lambda p: p._replace(files=p.files | {"training.json": b"{}"}), Refusal.FILES),
        (lambda p: spoil(p, WEIGHTS), Refusal.FILES),
        (lambda p: spoil(p, SKETCH), Refusal.FILES),
    ],
)
def test_a_bad_offer_changes_nothing(device, publish, unseen_writers, harm, reason):
    write(device, unseen_writers, 20)
    before, name = content(device.home.directory), device.agent.release_name
    harmed = harm(publish(shuffled(1)))
    assert device.adoption.consider(*harmed) == (State.REFUSED, name, reason)
    assert content(device.home.directory) == before
    assert device.agent.release_name == name


def test_an_offer_of_a_release_with_numbers_that_are_none_is_refused(device, publish, tmp_path):
    def nan(expert, sketch):
        expert.head.bias[3] = float("nan")
        return sketch

    with pytest.raises(ValueError, match="not finite"):
        publish(nan)
    # Nor is it believed when somebody has signed it all the same.
    directory = next(path for path in tmp_path.glob("release-0"))
    manifest = replace(Manifest.load(directory / MANIFEST), version=9).to_json().encode()
    key = ReleaseKey.load(tmp_path / "release.key")
    files = {name: (directory / name).read_bytes() for name in (WEIGHTS, SKETCH)}
    answer = device.adoption.consider(manifest, key.sign(manifest), files)
    assert (answer.state, answer.refusal) == (State.REFUSED, Refusal.FILES)


def test_a_full_disk_is_said_and_survived(device, publish, monkeypatch):
    parcel = publish(shuffled(1))
    before = content(device.home.directory)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        answer = device.answer(parcel)
    assert (answer.state, answer.refusal) == (State.REFUSED, Refusal.STORE)
    assert content(device.home.directory) == before
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        assert device.answer(parcel).state is State.LEARNING
        device.adoption.close()
    assert content(device.home.directory) == before
    assert device.answer(parcel).refusal is Refusal.STORE
    device.clock.advance(RETRY_SECONDS)
    assert device.answer(parcel).state is State.LEARNING
    assert device.settled(parcel).state is State.RUNNING


def test_an_offer_is_begun_anew_after_a_restart_in_its_middle(
    home, key, publish, unseen_writers, monkeypatch
):
    device = started(home, key)
    write(device, unseen_writers, 20)
    parcel = publish(shuffled(1))
    shutil.copytree(home.release, home.incoming)  # as a crash would leave it
    device.agent.close()
    again = started(home, key)
    assert again.adoption.consider(parcel.manifest, parcel.signature, {}).state is State.WANTED
    assert again.settled(parcel).state is State.RUNNING
    assert not home.incoming.exists()
    again.agent.close()


def test_an_agent_that_ends_in_the_middle_keeps_its_release_or_has_the_new_one(
    home, key, publish, unseen_writers
):
    device = started(home, key)
    write(device, unseen_writers)
    parcel = publish(shuffled(1))
    assert device.answer(parcel).state is State.LEARNING
    device.agent.close()
    device.adoption.close()
    again = started(home, key)
    assert again.settled(parcel).state is State.RUNNING
    again.agent.close()


def test_a_device_without_a_release_gets_its_first(key, publish, tmp_path):
    home = Home(tmp_path / "new")
    home.directory.mkdir()
    adoption = Adoption(None, home, key.public)
    parcel = publish(shuffled(1))
    bad = spoil(parcel, WEIGHTS)
    assert adoption.consider(parcel.manifest, bytes(64), {}).refusal is Refusal.SIGNATURE
    assert adoption.consider(parcel.manifest, parcel.signature, {}) == (State.WANTED, "", None)
    assert adoption.consider(*bad).refusal is Refusal.FILES
    assert not adoption.installed.is_set()
    assert list(home.directory.iterdir()) == []
    assert adoption.consider(*parcel) == (State.LEARNING, "", None)
    assert adoption.installed.is_set()
    device = started(home, key)
    assert device.answer(parcel).state is State.RUNNING
    device.agent.close()


CRASHES = {
    "as the copying begins": ("mkdir", 1, "the old one and its mixture"),
    "as the first file is synced": ("fsync", 1, "the old one and its mixture"),
    "before the old one is moved away": ("rename", 1, "the old one and its mixture"),
    "between the two steps": ("replace", 1, "the old one and its mixture"),
    "as the new one's entry is synced": ("fsync", 6, "the new one"),
    "before the old one is removed": ("rmdir", 1, "the new one"),
    "between the release and its mixture": ("installed", 0, "the new one"),
    "when all is done": ("adopted", 0, "the new one and its mixture"),
}


@pytest.mark.parametrize("when", CRASHES)
def test_killed_at_any_moment_it_starts_with_one_whole_release(
    home, key, publish, unseen_writers, when, tmp_path
):
    device = started(home, key)
    write(device, unseen_writers, 40)
    device.agent.close()
    old, parcel = Manifest.load(home.release / MANIFEST), publish(shuffled(1))
    new = Manifest.parse(parcel.manifest, "the parcel")
    place = tmp_path / "registry" / new.name
    call, number, left = CRASHES[when]
    program = [sys.executable, Path(__file__).with_name("adopt_and_die.py")]
    told = [home.directory, place, key.public, call, str(number)]
    died = subprocess.run([*program, *told], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    with home.occupied():
        assert not [path for path in home.directory.iterdir() if path.name.startswith(".")]
        release = Release.load(home.release)
        assert release.manifest == (old if left.startswith("the old one") else new)
        with closing(Store(home.database)) as store:
            assert store.notices == []
            assert len(store.rows()) == 40
            has_its_mixture = store.personal.release == release.manifest.digest
        assert has_its_mixture == left.endswith("and its mixture")
        again = started(home, key)
        until(lambda: again.agent.person.mixture is not None, SOON)
        assert again.settled(parcel) == (State.RUNNING, new.name, None)
        again.agent.close()
