"""What was forgotten cannot be read from the disk again: its keys are gone from every block."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedhw.handwriting.glyph import GLYPH
from fedhw.release.release import Release
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import Selection, Store
from tests.parts import lack, need

GLYPHS = 60
DISK_BYTES = 16 * 2**20
PASSPHRASE = "correct horse"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The image of a disk with ext4, and where it is mounted."""
    need("mkfs.ext4")
    image, place = tmp_path / "disk.img", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    try:
        subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lack("mount", f"run as root, who may mount here ({error})")
    yield image, place
    subprocess.run(["umount", place], check=True)


def keys_of(store: Store) -> set[bytes]:
    """Every key that a record is under now, as it is and wrapped, and the files of the master."""
    keys = store._keys
    rows = "SELECT key FROM samples UNION SELECT key FROM personal"
    used = [number for (number,) in store._db.read(rows)]
    masters = {file.read_bytes()[-36:-4] for file in keys.files[:2]}
    return masters | {secret for n in used for secret in (keys._key(n), keys._wrapped[n])}


def live(agent: Agent, store: Store) -> tuple[set[bytes], set[bytes]]:
    """Learn, undo, learn again and export; returns what was written and all keys there were."""
    rng, written, keys = np.random.default_rng(5), set(), set()
    for _ in range(3):
        glyphs = rng.integers(0, 256, (GLYPHS // 3, *GLYPH.shape), dtype=np.uint8)
        agent.learn([Correction(glyph, str(i % 10)) for i, glyph in enumerate(glyphs)])
        written |= {glyph.tobytes() for glyph in glyphs}
        keys |= keys_of(store)
        agent.undo()  # which learns before it answers
        agent.export_profile(PASSPHRASE)
        if store.personal is not None:
            written.add(store.personal.tensors)
        keys |= keys_of(store)
    return written, keys


def pieces(secrets: set[bytes]) -> set[bytes]:
    """The first bytes of each, which one block has whole."""
    return {secret[:32] for secret in secrets}


def found(secrets: set[bytes], content: bytes) -> int:
    return sum(secret in content for secret in pieces(secrets))


def test_nothing_forgotten_is_in_the_files(release: Release, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    store = Store(home / "device.db")
    agent = Agent(release, store)
    written, keys = live(agent, store)

    def files() -> bytes:
        return b"".join(file.read_bytes() for file in home.iterdir())

    assert found(written, files()) == 0
    assert found(keys, files()) > GLYPHS // 2
    agent.forget(Selection())
    assert found(written | keys, files()) == 0
    agent.close()
    assert found(written | keys, files()) == 0


def test_nothing_forgotten_is_on_the_disk(release: Release, disk: tuple[Path, Path]) -> None:
    image, place = disk
    store = Store(place / "device.db")
    agent = Agent(release, store)
    written, keys = live(agent, store)

    def blocks() -> bytes:
        subprocess.run(["sync", "-f", place], check=True)
        return image.read_bytes()

    assert found(written, blocks()) == 0
    assert found(keys, blocks()) > GLYPHS // 2
    agent.forget(Selection())
    assert found(written | keys, blocks()) == 0
    agent.close()
    assert found(written | keys, blocks()) == 0


def test_one_that_is_forgotten_loses_its_key_and_the_others_keep_theirs(
    release: Release, tmp_path: Path
) -> None:
    store = Store(tmp_path / "device.db")
    agent = Agent(release, store)
    rng = np.random.default_rng(6)
    glyphs = rng.integers(0, 256, (4, *GLYPH.shape), dtype=np.uint8)
    names = agent.learn([Correction(glyph, "7") for glyph in glyphs])
    rows = dict(store._db.read("SELECT position, key FROM samples"))
    wrapped = {position: store._keys._wrapped[key] for position, key in rows.items()}
    assert agent.forget(Selection(id=names[1])) == 1
    agent.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [wrapped[position] in content for position in range(4)] == [True, False, True, True]
