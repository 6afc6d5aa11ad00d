import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fedhw.errors import InputError
from fedhw.observation import Labels
from fedhw.release.manifest import FOR_DEVICES, MANIFEST, Manifest
from fedhw.release.offer import verify_files, verify_offer
from fedhw.release.registry import SIGNATURE, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey, verify
from tests.release.conftest import Vary, nudge, rewrite, too_large


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "release.key")


@pytest.fixture
def registry(tmp_path: Path, key: ReleaseKey) -> Registry:
    return Registry(tmp_path / "releases", key)


def numbers(registry: Registry) -> list[int]:
    return [manifest.version for manifest in registry.versions()]


def test_nothing_was_published_at_first(registry: Registry, tmp_path: Path) -> None:
    assert registry.versions() == []
    assert registry.latest is None
    assert not (tmp_path / "releases").exists()
    for ask in (registry.parcel, registry.rollback):
        with pytest.raises(InputError, match=r"version: 1 was never published; .* none yet"):
            ask(1)


def test_what_is_published_travels_signed_and_without_what_stays(
    registry: Registry, release_directory: Path, release: Release, key: ReleaseKey, tmp_path: Path
) -> None:
    published = registry.publish(release_directory)
    assert (published.version, published.parent, published.restores) == (1, None, None)
    assert published.files == release.manifest.files
    assert registry.latest == published
    parcel = registry.parcel(1)
    assert Manifest.parse(parcel.manifest, "the parcel") == published
    assert parcel.files.keys() == set(FOR_DEVICES)
    assert verify_offer(*parcel[:2], key.public, release.manifest) == published
    verify_files(published, parcel.files)
    assert {path.name for path in (tmp_path / "releases" / published.name).iterdir()} == {
        MANIFEST,
        SIGNATURE,
        *FOR_DEVICES,
    }
    loaded = Release.load(tmp_path / "releases" / published.name)
    assert loaded.manifest == published


def test_versions_grow_and_know_what_they_follow(
    registry: Registry, release_directory: Path, vary: Vary, tmp_path: Path
) -> None:
    first = registry.publish(release_directory)
    second = registry.publish(vary("second", nudge(0.1), version=77, parent=3))
    assert (second.version, second.parent) == (2, 1)
    third = registry.rollback(1)
    assert (third.version, third.parent, third.restores) == (3, 2, 1)
    assert third.files == first.files
    assert registry.parcel(3).files == registry.parcel(1).files
    fourth = registry.rollback(2)
    assert (fourth.version, fourth.parent, fourth.restores) == (4, 3, 2)
    assert registry.versions() == [first, second, third, fourth]
    # What was a rollback is published as anything else is.
    fifth = registry.publish(tmp_path / "releases" / third.name)
    assert (fifth.version, fifth.restores) == (5, None)


def test_what_must_not_be_published_is_refused(
    registry: Registry, release_directory: Path, vary: Vary, tmp_path: Path
) -> None:
    registry.publish(release_directory)
    labels = Labels(Release.load(release_directory).labels.texts[::-1])
    reversed_ = vary("reversed", nudge(0.1), labels=labels)
    broken = vary("broken", nudge(0.2))
    (broken / "weights.safetensors").write_bytes(b"x")
    for act, sentence in (
        (lambda: registry.publish(release_directory), "its files are those of v1-"),
        (lambda: registry.publish(vary("same", validation={})), "its files are those of v1-"),
        (lambda: registry.publish(reversed_), "is not the fleet's"),
        (lambda: registry.publish(vary("over", too_large)), "numbers that are not finite when"),
        (lambda: registry.publish(broken), "is not the file in the manifest"),
        (lambda: registry.publish(tmp_path / "nowhere"), "does not exist"),
        (lambda: registry.rollback(1), "its files are those of v1-"),
        (lambda: registry.rollback(7), "version: 7 was never published; give one of these: 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            act()
    assert numbers(registry) == [1]


def test_another_key_or_any_damage_is_told(
    registry: Registry, release_directory: Path, tmp_path: Path
) -> None:
    name = registry.publish(release_directory).name
    place = tmp_path / "releases" / name
    other = Registry(tmp_path / "releases", ReleaseKey.create(tmp_path / "other.key"))
    with pytest.raises(InputError, match="signed with another key"):
        _ = other.latest
    rewrite(place, validation={})
    with pytest.raises(InputError, match="is damaged or"):
        registry.versions()
    shutil.rmtree(place)
    shutil.copytree(release_directory, place)
    with pytest.raises(InputError, match=r"manifest\.sig cannot be read"):
        registry.parcel(1)


def test_a_published_release_under_another_name_is_told(
    registry: Registry, release_directory: Path, tmp_path: Path
) -> None:
    name = registry.publish(release_directory).name
    (tmp_path / "releases" / name).rename(tmp_path / "releases" / "v9-01234567")
    with pytest.raises(InputError, match=f"holds {name}; give it its name back"):
        _ = registry.latest


def test_a_damaged_file_does_not_travel(
    registry: Registry, release_directory: Path, tmp_path: Path
) -> None:
    name = registry.publish(release_directory).name
    with (tmp_path / "releases" / name / FOR_DEVICES[0]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="is not the file in the manifest"):
        registry.parcel(1)


def test_what_is_no_release_is_passed_over(
    registry: Registry, release_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "releases" / ".v1-01234567.abcdefgh").mkdir(parents=True)
    (tmp_path / "releases" / "notes.txt").touch()
    assert registry.latest is None
    name = registry.publish(release_directory).name
    left = {path.name for path in (tmp_path / "releases").iterdir()}
    assert left == {".lock", "notes.txt", name}


def test_a_disk_that_refuses_is_one_sentence(
    key: ReleaseKey, release_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.* cannot be (read|written)"):
        Registry(tmp_path / "file" / "releases", key).publish(release_directory)
    with pytest.raises(InputError, match=r"file cannot be read"):
        Registry(tmp_path / "file", key).versions()


def test_many_publish_at_once_and_each_gets_its_version(
    registry: Registry, vary: Vary, key: ReleaseKey, tmp_path: Path
) -> None:
    directories = [vary(f"release-{n}", nudge(n)) for n in range(6)]
    context = multiprocessing.get_context("fork")
    publishers = [
        context.Process(target=Registry(tmp_path / "releases", key).publish, args=(directory,))
        for directory in directories
    ]
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            latest = registry.latest
            seen.append(0 if latest is None else latest.version)

    watcher = threading.Thread(target=watch)
    for process in publishers:
        process.start()
    watcher.start()
    for process in publishers:
        process.join(60)
    done.set()
    watcher.join()
    assert [process.exitcode for process in publishers] == [0] * 6
    assert numbers(registry) == [1, 2, 3, 4, 5, 6]
    assert seen == sorted(seen)
    assert len({registry.parcel(n).files[FOR_DEVICES[0]] for n in range(1, 7)}) == 6


def publish_and_die(directory: Path, key: Path, release: Path, call: str, number: int) -> None:
    """Be killed at the call of that number into the system."""
    calls = 0
    original = getattr(os, call)

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, call, counting)
    Registry(directory, ReleaseKey.load(key)).publish(release)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("fsync", number) for number in range(1, 7)),  # four files, their directory, the entry
        ("open", 1),
        ("open", 2),
        ("mkdir", 2),
        ("mkdir", 3),
        ("replace", 1),
        ("rmdir", 1),
    ],
)
def test_killed_while_publishing_it_has_published_whole_or_nothing(
    registry: Registry,
    key: ReleaseKey,
    release_directory: Path,
    vary: Vary,
    tmp_path: Path,
    call: str,
    number: int,
) -> None:
    registry.publish(release_directory)
    second = vary("second", nudge(0.1))
    arguments = (tmp_path / "releases", tmp_path / "release.key", second, call, number)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=publish_and_die, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert numbers(registry) in ([1], [1, 2])
    for version in numbers(registry):
        parcel = registry.parcel(version)
        verify(parcel.manifest, parcel.signature, key.public)
    if numbers(registry) == [1]:
        registry.publish(second)
    assert numbers(registry) == [1, 2]
    registry.rollback(1)
    assert not list((tmp_path / "releases").glob(".v*"))


@settings(max_examples=8, stateful_step_count=12)
class Fleet(RuleBasedStateMachine):
    """Whatever is published or rolled back, one rule brings every device to the newest."""

    make: Callable[[int], Path]
    directory: Path
    key: ReleaseKey
    started = 0

    @initialize()
    def start(self) -> None:
        Fleet.started += 1
        self.registry = Registry(self.directory / f"releases-{Fleet.started}", self.key)
        self.contents: list[int] = []
        self.device = Manifest.load(self.make(0) / MANIFEST)

    @rule(content=st.integers(0, 2))
    def publish(self, content: int) -> None:
        if self.contents[-1:] == [content]:
            with pytest.raises(InputError, match="its files are those of"):
                self.registry.publish(self.make(content))
        else:
            self.registry.publish(self.make(content))
            self.contents.append(content)

    @rule(version=st.integers(1, 6))
    def roll_back(self, version: int) -> None:
        if version > len(self.contents) or self.contents[version - 1] == self.contents[-1]:
            with pytest.raises(InputError):
                self.registry.rollback(version)
        else:
            assert self.registry.rollback(version).restores == version
            self.contents.append(self.contents[version - 1])

    @rule()
    def offer(self) -> None:
        if self.registry.latest is not None:
            parcel = self.registry.parcel(self.registry.latest.version)
            self.device = verify_offer(*parcel[:2], self.key.public, self.device)
            assert self.device == self.registry.latest

    @invariant()
    def whole(self) -> None:
        assert numbers(self.registry) == list(range(1, len(self.contents) + 1))


def test_any_order_of_publishing_and_rolling_back(vary: Vary, key: ReleaseKey, tmp_path: Path):
    made = [vary(f"release-{n}", nudge(n)) for n in range(3)]
    Fleet.make = staticmethod(lambda content: made[content])
    Fleet.directory, Fleet.key = tmp_path, key
    run_state_machine_as_test(Fleet)
