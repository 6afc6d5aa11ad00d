"""What was forgotten cannot be read from the disk again: its keys are gone from every block."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedhw.handwriting.glyph import GLYPH
from fedhw.release.release import Release
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.store.corrections import Selection, Store
from tests.parts import lack, need

OLDER = Path(__file__).parents[2] / "fixtures" / "v0.1" / "device" / "device.db"
GLYPHS = 40
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
    # Lazily: after a failure the store is still open.
    subprocess.run(["umount", "--lazy", place], check=True)


def keys_of(store: Store) -> set[bytes]:
    """Every key in use now, as it is and wrapped, the master key, and what they encrypt."""
    keys = store._keys
    rows = "SELECT key, sealed FROM samples UNION SELECT key, sealed FROM personal"
    found = {file.read_bytes()[-36:-4] for file in keys.files[:2]}
    for number, sealed in store._db.read(rows):
        found |= {keys._key(number), keys._wrapped[number], sealed}
    return found


def live(agent: Agent, store: Store) -> tuple[set[bytes], set[bytes]]:
    """Learn, undo, learn again and export; returns what was written and all keys there were."""
    rng, written, keys = np.random.default_rng(5), set(), set()
    for _ in range(2):
        glyphs = rng.integers(0, 256, (GLYPHS // 2, *GLYPH.shape), dtype=np.uint8)
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


def blocks(disk: tuple[Path, Path]) -> bytes:
    """All blocks of a disk, those in use and the free ones."""
    image, place = disk
    subprocess.run(["sync", "-f", place], check=True)
    return image.read_bytes()


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
    assert found(keys, files()) > GLYPHS
    agent.forget(Selection())
    assert found(written | keys, files()) == 0
    agent.close()
    assert found(written | keys, files()) == 0


def test_nothing_forgotten_is_on_the_disk(release: Release, disk: tuple[Path, Path]) -> None:
    _, place = disk
    store = Store(place / "device.db")
    agent = Agent(release, store)
    written, keys = live(agent, store)

    assert found(written, blocks(disk)) == 0
    assert found(keys, blocks(disk)) > GLYPHS
    agent.forget(Selection())
    assert found(written | keys, blocks(disk)) == 0
    agent.close()
    assert found(written | keys, blocks(disk)) == 0


def test_what_an_older_store_had_in_plain_is_on_the_disk_no_more(disk: tuple[Path, Path]) -> None:
    _, place = disk
    with closing(sqlite3.connect(shutil.copy(OLDER, place / "device.db"))) as db:
        plain = {bytes(glyph)[300:] for (glyph,) in db.execute("SELECT glyph FROM samples")}
    assert found(plain, blocks(disk)) == len(pieces(plain))
    with closing(Store(place / "device.db")) as store:
        assert found(plain, blocks(disk)) == 0
        assert len(store.rows()) == len(plain)


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
