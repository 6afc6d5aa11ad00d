import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedhw.data.npz import load_npz, save_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from tests.parts import SHARED, need_data

REAL = SHARED / "unipen62.npz"

GOOD = {
    "images": np.zeros((3, 28, 28), np.uint8),
    "labels": np.array([0, 10, 61], np.uint8),
    "writer": np.array([0, 1, 0], np.uint16),
    "writers": np.array(["ann", "bo"]),
    "order": np.array([0, 0, 1], np.uint32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writers.npz"


@st.composite
def writer_sets(draw: st.DrawFn) -> WriterSet:
    # numpy's text arrays drop NULs at the end, which no name has.
    names = draw(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=4))
    alphabet = draw(st.sampled_from(["01", BYCLASS, "αβγ"]))
    n = draw(st.integers(1, 5))

    def column(dtype: type, top: int):
        return draw(arrays(dtype, n, elements=st.integers(0, top)))

    return WriterSet(
        images=draw(arrays(np.uint8, (n, 28, 28))),
        labels=column(np.uint8, len(alphabet) - 1),
        writer=column(np.uint32, len(names) - 1),
        names=tuple(names),
        order=column(np.uint32, 2**32 - 1),
        alphabet=alphabet,
    )


def assert_same(one: WriterSet, other: WriterSet) -> None:
    for field in ("images", "labels", "writer", "order"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), strict=True)
    assert one.names == other.names
    assert one.alphabet == other.alphabet


@settings(deadline=None)
@given(writer_sets())
def test_what_is_saved_is_what_is_loaded(writers):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "no_suffix"
        save_npz(path, writers)

        assert_same(load_npz(path), writers)
        assert [file.name for file in Path(folder).iterdir()] == ["no_suffix"]


def test_a_failed_save_leaves_the_old_file(path):
    writers = WriterSet.of(GOOD["images"], [1, 2, 3], [0, 0, 0], ["ann"])
    save_npz(path, writers)

    with pytest.raises(ValueError, match="setting an array element"):
        save_npz(path, replace(writers, names=("ann", ["not", "a name"])))

    assert_same(load_npz(path), writers)


def test_a_file_without_an_alphabet_has_the_62_classes(path):
    np.savez(path, **GOOD)

    writers = load_npz(path)

    assert writers.alphabet == BYCLASS
    assert writers.names == ("ann", "bo")
    assert writers.labels.tolist() == [0, 10, 61]


def test_whole_numbers_of_any_width_are_taken(path):
    np.savez(path, **GOOD | {"labels": GOOD["labels"].astype(np.int64)})

    assert load_npz(path).labels.dtype == np.uint8


def test_the_real_handwriting_is_read_whole():
    need_data(REAL)
    writers = load_npz(REAL)

    assert len(writers) == 87_207
    assert len(writers.names) == len(set(writers.names)) == 263
    assert (writers.counts() >= 150).sum() == 140
    assert (writers.counts() >= 300).sum() == 85
    # Ink is bright and rare: an inverted file would fail here.
    assert 20 < writers.images.mean() < 80


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_array_is_named(path, field):
    np.savez(path, **{name: array for name, array in GOOD.items() if name != field})

    with pytest.raises(InputError, match=rf"writers\.npz: {field}: the file has no such array"):
        load_npz(path)


@pytest.mark.parametrize("field", GOOD)
def test_python_objects_are_never_unpickled(path, field):
    np.savez(path, **GOOD | {field: np.array([Unpickled()], object)})

    with pytest.raises(InputError, match=rf"writers\.npz: {field}: is damaged or holds Python"):
        load_npz(path)


class Unpickled:
    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", np.full((3, 28, 28), np.nan), "images: dtype float64 is not uint8"),
        ("images", np.zeros((3, 784), np.uint8), r"images: shape \(3, 784\) is not"),
        ("images", np.zeros((0, 28, 28), np.uint8), "images: there are none"),
        ("images", np.array(5, np.uint8), r"images: shape \(\) is not"),
        ("labels", np.array([0.0, 1.0, np.nan]), "labels: dtype float64 is not a whole number"),
        ("labels", np.array([0, 1, 62], np.uint8), "labels: value 62 is outside the 62 classes"),
        ("labels", np.array([0, 1, -1]), r"labels: values -1\.\.1 do not fit"),
        ("labels", np.zeros((3, 2), np.uint8), r"labels: shape \(3, 2\) does not fit 3 images"),
        ("writer", np.array([0, 1, 2], np.uint16), "writer: value 2 is outside the 2 writer names"),
        ("writers", np.array([1, 2]), r"writers: int64 \(2,\) is not a list of names"),
        ("writers", np.array("ann"), r"writers: <U3 \(\) is not a list of names"),
        ("writers", np.array([], str), "names: there are none"),
        ("order", np.array([0, 1], np.uint32), r"order: shape \(2,\) does not fit 3 images"),
        ("alphabet", np.array(["0", "1"]), r"alphabet: <U1 \(2,\) is not one text"),
        ("alphabet", np.array("01"), "labels: value 61 is outside the 2 classes"),
    ],
)
def test_a_wrong_array_is_named_with_its_file(path, field, value, message):
    np.savez(path, **GOOD | {field: value})

    with pytest.raises(InputError, match=rf"writers\.npz: {message}"):
        load_npz(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"writers\.npz: there is no such file"):
        load_npz(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not numpy at all", b"\x80\x04N."])
def test_another_file_is_told_from_an_npz(path, content):
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"writers\.npz: is no npz file"):
        load_npz(path)


def test_a_folder_is_told_from_an_npz(tmp_path):
    with pytest.raises(InputError, match="is no npz file"):
        load_npz(tmp_path)


def test_a_single_array_is_told_from_an_npz(tmp_path):
    np.save(tmp_path / "images.npy", GOOD["images"])

    with pytest.raises(InputError, match=r"images\.npy: is no npz file"):
        load_npz(tmp_path / "images.npy")


def test_a_member_that_is_no_array_is_named(path):
    np.savez(path, **{name: array for name, array in GOOD.items() if name != "order"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("order.npy", b"0 1 2")

    with pytest.raises(InputError, match=r"writers\.npz: order: is damaged"):
        load_npz(path)


def whole_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "whole.npz"
        np.savez_compressed(path, **GOOD)
        return path.read_bytes()


WHOLE = whole_file()


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_is_refused(length):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cut.npz"
        path.write_bytes(WHOLE[:length])

        with pytest.raises(InputError, match=r"cut\.npz: is no npz file, or cut short"):
            load_npz(path)


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@example(WHOLE.index(b"PK\x01\x02") + 6, 0xFF)
def test_a_damaged_byte_is_harmless_or_refused(position, flipped):
    damaged = bytearray(WHOLE)
    damaged[position] ^= flipped
    with TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.npz"
        path.write_bytes(damaged)
        with suppress(InputError):
            assert load_npz(path).labels.tolist() == GOOD["labels"].tolist()
