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
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import Labels
from tests.full_disk import disk_of
from tests.parts import need_data
from tests.places import SHARED

REAL = SHARED / "unipen62.npz"

GOOD = {
    "observations": np.zeros((3, 5, 2), np.float32),
    "labels": np.array([0, 1, 1], np.uint8),
    "classes": np.array(["left", "right"]),
    "writer": np.array([0, 1, 0], np.uint16),
    "writers": np.array(["ann", "bo"]),
    "order": np.array([0, 0, 1], np.uint32),
}


OLD = {
    "images": np.zeros((3, 28, 28), np.uint8),
    "labels": np.array([0, 10, 61], np.uint8),
    "writer": np.array([0, 1, 0], np.uint16),
    "writers": np.array(["ann", "bo"]),
    "order": np.array([0, 0, 1], np.uint32),
}
"""As it was before a file had `classes`."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writers.npz"


@st.composite
def writer_sets(draw: st.DrawFn) -> WriterSet:
    name = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)
    names = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    words = Labels(("seven", "eight and a half", "字"))
    classes = draw(st.sampled_from([BYCLASS, Labels.characters("αβγ"), words]))
    shape, dtype = draw(st.sampled_from([((28, 28), np.uint8), ((3, 2), np.float32)]))
    n = draw(st.integers(1, 5))

    def column(dtype: type, top: int):
        return draw(arrays(dtype, n, elements=st.integers(0, top)))

    return WriterSet(
        observations=draw(arrays(dtype, (n, *shape), elements=st.integers(0, 99))),
        labels=column(np.int64, len(classes) - 1),
        writer=column(np.uint32, len(names) - 1),
        names=tuple(names),
        order=column(np.uint32, 2**32 - 1),
        classes=classes,
    )


def assert_same(one: WriterSet, other: WriterSet) -> None:
    for field in ("observations", "labels", "writer", "order"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), strict=True)
    assert one.names == other.names
    assert one.classes == other.classes


@settings(deadline=None)
@given(writer_sets())
def test_what_is_saved_is_what_is_loaded(writers):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "no_suffix"
        save_npz(path, writers)

        assert_same(load_npz(path), writers)
        assert [file.name for file in Path(folder).iterdir()] == ["no_suffix"]


def test_a_failed_save_leaves_the_old_file(path):
    writers = WriterSet.of(GOOD["observations"], [1, 2, 3], [0, 0, 0], ["ann"], BYCLASS)
    save_npz(path, writers)

    with disk_of(100), pytest.raises(OSError, match="File too large"):
        save_npz(path, replace(writers, names=("bo",)))

    assert_same(load_npz(path), writers)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_without_an_alphabet_has_the_62_classes(path):
    np.savez(path, **OLD)

    writers = load_npz(path)

    assert writers.classes == BYCLASS
    assert writers.observation == GLYPH
    assert writers.names == ("ann", "bo")
    assert writers.labels.tolist() == [0, 10, 61]


def test_an_older_file_has_its_alphabet(path):
    np.savez(path, **OLD | {"labels": [0, 1, 2], "alphabet": np.array("äöü")})

    assert load_npz(path).classes == Labels(("ä", "ö", "ü"))


def test_whole_numbers_of_any_width_are_taken(path):
    np.savez(path, **GOOD | {"labels": GOOD["labels"].astype(np.int16)})

    assert load_npz(path).labels.dtype == np.int64


def test_the_real_handwriting_is_read_whole():
    need_data(REAL)
    writers = load_npz(REAL)

    assert len(writers) == 87_207
    assert len(writers.names) == len(set(writers.names)) == 263
    assert (writers.counts() >= 150).sum() == 140
    assert (writers.counts() >= 300).sum() == 85
    # Ink is bright and rare: an inverted file would fail here.
    assert 20 < writers.observations.mean() < 80


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
        ("observations", np.zeros((3, 28, 28)), "observation: dtype float64 is not supported"),
        ("observations", np.full((3, 9), np.nan, np.float32), "observation: it holds NaN"),
        ("observations", np.zeros((3, 2, 0), np.uint8), r"observation: shape \[2, 0\] is not"),
        ("observations", np.zeros((0, 28, 28), np.uint8), "observations: there are none"),
        ("observations", np.array(5, np.uint8), r"observation: shape \[\] is not"),
        ("labels", np.array([0.0, 1.0, np.nan]), "labels: dtype float64 is not a whole number"),
        ("labels", np.array([0, 1, 2], np.uint8), "labels: value 2 is outside the 2 classes"),
        ("labels", np.array([0, 1, -1]), r"labels: values -1\.\.1 do not fit"),
        (
            "labels",
            np.zeros((3, 2), np.uint8),
            r"labels: shape \(3, 2\) does not fit 3 observations",
        ),
        ("writer", np.array([0, 1, 2], np.uint16), "writer: value 2 is outside the 2 writer names"),
        ("writers", np.array([1, 2]), r"writers: int64 \(2,\) is not a list of texts"),
        ("writers", np.array("ann"), r"writers: <U3 \(\) is not a list of texts"),
        ("writers", np.array([], str), "names: there are none"),
        ("order", np.array([0, 1], np.uint32), r"order: shape \(2,\) does not fit 3 observations"),
        ("classes", np.array("01"), r"classes: <U2 \(\) is not a list of texts"),
        ("classes", np.array(["left"]), "labels: value 1 is outside the 1 classes"),
        ("classes", np.array(["left", "left"]), r"labels\[1\]: 'left' is also labels\[0\]"),
    ],
)
def test_a_wrong_array_is_named_with_its_file(path, field, value, message):
    np.savez(path, **GOOD | {field: value})

    with pytest.raises(InputError, match=rf"writers\.npz: {message}"):
        load_npz(path)


def test_a_wrong_alphabet_of_an_older_file_is_named(path):
    np.savez(path, **OLD | {"alphabet": np.array(["0", "1"])})

    with pytest.raises(InputError, match=r"alphabet: <U1 \(2,\) is not one text"):
        load_npz(path)


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [("010", r"labels\[2\]: '0' is also labels\[0\]"), ("01\ud800", "has a lone surrogate")],
)
def test_an_alphabet_that_no_release_can_have_is_refused(path, alphabet, message):
    np.savez(path, **OLD | {"alphabet": np.array(alphabet)})

    with pytest.raises(InputError, match=message):
        load_npz(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"writers\.npz: there is no such file"):
        load_npz(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not numpy at all", b"\x80\x04N."])
def test_another_file_is_told_from_an_npz(path, content):
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"writers\.npz: is not a complete npz file"):
        load_npz(path)


def test_a_folder_is_told_from_an_npz(tmp_path):
    with pytest.raises(InputError, match="is not a complete npz file"):
        load_npz(tmp_path)


def test_a_single_array_is_told_from_an_npz(tmp_path):
    np.save(tmp_path / "images.npy", OLD["images"])

    with pytest.raises(InputError, match=r"images\.npy: is not a complete npz file"):
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

        with pytest.raises(InputError, match=r"cut\.npz: is not a complete npz file"):
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
