import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhw_client.store.sample_keys import SampleKeys

RECORDS = 40

Sealed = dict[int, bytes]


def sealed(keys: SampleKeys, records: int = RECORDS) -> Sealed:
    """The number of a key, and the record under it, each of which says its place."""
    keys.add(records + 1)
    return dict(keys.seal(bytes([n]), b"about") for n in range(records))


def opened(database: Path, records: Sealed) -> list[bytes | None]:
    keys = SampleKeys(database)
    return [keys.unseal(number, record, b"about") for number, record in records.items()]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "device.db"


@pytest.fixture
def keys(database: Path) -> SampleKeys:
    return SampleKeys(database)


def on_disk(keys: SampleKeys) -> bytes:
    return b"".join(file.read_bytes() for file in keys.files)


def test_records_open_after_a_restart(keys, database):
    assert keys.are_missing
    records = sealed(keys)
    assert not SampleKeys(database).are_missing
    assert opened(database, records) == [bytes([n]) for n in range(RECORDS)]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in keys.files)


def test_a_record_opens_at_its_own_place_alone(keys):
    (number, record), (other, _) = list(sealed(keys).items())[:2]
    assert keys.unseal(number, record, b"elsewhere") is None
    assert keys.unseal(other, record, b"about") is None
    assert keys.unseal(10**6, record, b"about") is None
    assert keys.unseal(-1, record, b"about") is None
    assert keys.unseal(number, b"", b"about") is None


def test_every_record_has_a_key_of_its_own(keys):
    records = sealed(keys)
    assert len(records) == RECORDS
    assert len({keys._key(number) for number in records}) == RECORDS
    keys.seal(b"the last fresh one", b"about")
    with pytest.raises(IndexError):
        keys.seal(b"no key is left", b"about")


def test_what_is_not_in_use_is_destroyed_and_overwritten(keys, database):
    records = sealed(keys)
    used = set(list(records)[::2])
    wrapped = {number: keys._wrapped[number] for number in records}
    assert all(key in on_disk(keys) for key in wrapped.values())
    keys.destroy_all_but(used)
    for number, key in wrapped.items():
        assert (key in on_disk(keys)) == (number in used)
    for destroyed in (keys, SampleKeys(database)):
        for number, record in records.items():
            assert (destroyed.unseal(number, record, b"about") is None) == (number not in used)
    assert keys.fresh == RECORDS + 1 - len(used)


def test_with_the_last_record_the_master_key_goes_too(keys):
    sealed(keys)
    master = keys.files[0].read_bytes()
    keys.destroy_all_but({1})
    assert keys.files[0].read_bytes() == master
    keys.destroy_all_but(set())
    assert keys.files[0].read_bytes() != master
    assert keys.files[1].read_bytes() == keys.files[0].read_bytes()


@given(start=st.floats(0, 1), torn=st.binary(min_size=1, max_size=4096), which=st.integers(0, 3))
@settings(max_examples=30)
def test_a_torn_write_of_any_one_file_loses_no_record(tmp_path_factory, start, torn, which):
    database = tmp_path_factory.mktemp("keys") / "device.db"
    keys = SampleKeys(database)
    records = sealed(keys)
    content = bytearray(keys.files[which].read_bytes())
    at = int(start * len(content))
    content[at : at + len(torn)] = torn
    keys.files[which].write_bytes(content)
    assert opened(database, records) == [bytes([n]) for n in range(RECORDS)]


@pytest.mark.parametrize("written", range(4))
def test_a_kill_between_two_files_loses_no_record_in_use(keys, database, tmp_path, written):
    records = sealed(keys)
    used = dict(random.Random(written).sample(sorted(records.items()), 5))
    before = tmp_path / "before"
    before.mkdir()
    for file in keys.files:
        shutil.copy(file, before)
    keys.destroy_all_but(set(used))
    for file in keys.files[written:]:  # not yet written when it was killed
        shutil.copy(before / file.name, file)
    assert None not in opened(database, used)
    again = SampleKeys(database)
    again.destroy_all_but(set(used))
    gone = {number: record for number, record in records.items() if number not in used}
    assert set(opened(database, gone)) == {None}


def test_a_lost_file_is_made_again_from_its_copy(keys, database):
    records = sealed(keys)
    for file in keys.files[::2]:
        file.unlink()
    SampleKeys(database).destroy_all_but(set(records))
    for file in keys.files[2:]:
        assert file.read_bytes() == keys.files[3].read_bytes()
    assert None not in opened(database, records)
