import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhw.data.sources import load_source
from fedhw.errors import InputError
from fedhw.handwriting.emnist import load_emnist, split_in

STEM = "emnist-letters-train"
IMAGES = f"{STEM}-images-idx3-ubyte"
LABELS = f"{STEM}-labels-idx1-ubyte"

CLASSES = {
    "byclass": 62,
    "bymerge": 47,
    "balanced": 47,
    "letters": 26,
    "digits": 10,
    "mnist": 10,
}


def idx(array: NDArray[np.uint8]) -> bytes:
    """The idx form of an array, as EMNIST's own files are."""
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def upright_l() -> NDArray[np.uint8]:
    """A tall stem on the left and a short foot at the bottom, [28, 28]."""
    glyph = np.zeros((28, 28), np.uint8)
    glyph[4:24, 8] = 255
    glyph[23, 8:14] = 200
    return glyph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three glyphs of the letters, stored column by column and numbered from 1."""
    glyphs = np.stack([upright_l(), np.zeros((28, 28), np.uint8), upright_l()])
    (tmp_path / IMAGES).write_bytes(idx(glyphs.transpose(0, 2, 1)))
    (tmp_path / LABELS).write_bytes(idx(np.array([12, 1, 26], np.uint8)))
    return tmp_path


def test_glyphs_stand_upright(folder):
    writers = load_emnist(folder, "letters", "train")

    assert writers.observations[0].tolist() == upright_l().tolist()
    assert writers.observations.flags.c_contiguous
    assert writers.observations.flags.writeable


def test_letters_count_from_zero(folder):
    writers = load_emnist(folder, "letters", "train")

    assert [writers.classes[label] for label in writers.labels] == ["L", "A", "Z"]


def test_there_is_one_writer_in_the_order_of_the_file(folder):
    writers = load_emnist(folder, "letters", "train")

    assert writers.names == ("emnist",)
    assert writers.rows_of(0).tolist() == [0, 1, 2]


def test_gzipped_files_are_read_alike(folder):
    plain = load_emnist(folder, "letters", "train")
    for name in (IMAGES, LABELS):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), mtime=0))
        (folder / name).unlink()

    packed = load_emnist(folder, "letters", "train")

    assert packed.observations.tolist() == plain.observations.tolist()
    assert packed.labels.tolist() == plain.labels.tolist()


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("split", CLASSES)
def test_every_split_has_all_its_classes_and_no_more(tmp_path, split, part):
    first = 1 if split == "letters" else 0
    labels = np.arange(first, first + CLASSES[split], dtype=np.uint8)
    stem = f"emnist-{split}-{part}"
    labels_path = tmp_path / f"{stem}-labels-idx1-ubyte"
    images = np.zeros((len(labels), 28, 28), np.uint8)
    (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
    labels_path.write_bytes(idx(labels))

    writers = load_emnist(tmp_path, split, part)

    assert writers.labels.tolist() == list(range(CLASSES[split]))
    assert len(set(writers.classes)) == CLASSES[split]

    labels_path.write_bytes(idx(labels + 1))
    with pytest.raises(InputError, match=f"{stem}: labels: value {CLASSES[split]} is outside"):
        load_emnist(tmp_path, split, part)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_folder_of_one_split_is_a_source(tmp_path, packed):
    for name, array in (("images-idx3", np.zeros((2, 28, 28), np.uint8)), ("labels-idx1", [4, 46])):
        content = idx(np.array(array, np.uint8))
        file = tmp_path / f"emnist-balanced-train-{name}-ubyte{packed}"
        file.write_bytes(gzip.compress(content) if packed else content)

    writers = load_source(f"emnist:{tmp_path}")

    assert (len(writers.classes), writers.labels.tolist()) == (47, [4, 46])


def test_of_several_splits_byclass_is_read(tmp_path):
    for split in ("letters", "balanced"):
        (tmp_path / f"emnist-{split}-train-images-idx3-ubyte").touch()
    with pytest.raises(InputError, match="holds the splits balanced, letters; give a folder with"):
        split_in(tmp_path)
    (tmp_path / "emnist-byclass-train-images-idx3-ubyte.gz").touch()
    assert split_in(tmp_path) == "byclass"


def test_an_unknown_split_or_part_is_named(folder):
    with pytest.raises(InputError, match=r"^split: 'bywriter' is unknown; choose one of byclass,"):
        load_emnist(folder, "bywriter", "train")
    with pytest.raises(InputError, match=r"^part: 'all' is unknown; choose one of train, test$"):
        load_emnist(folder, "letters", "all")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()

    with pytest.raises(InputError, match=f"{name}: there is no such file, plain or .gz"):
        load_emnist(folder, "letters", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with b'', not"),
        (idx(np.zeros(3, np.uint8)), r"starts with b'\\x00\\x00\\x08\\x01', not"),
        (b"\x03\x08\x00\x00" + bytes(20), r"starts with b'\\x03\\x08\\x00\\x00', not"),
        (idx(np.zeros((3, 28, 28), np.uint8))[:15], "ends within its header"),
        (idx(np.zeros((3, 28, 28), np.uint8))[:-1], r"has 2351 bytes where shape \[3, 28, 28\]"),
        (idx(np.zeros((3, 28, 28), np.uint8)) + b"!", r"has 2353 bytes where shape \[3, 28, 28\]"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "has 0 bytes where shape"),
    ],
)
def test_a_damaged_file_is_named(folder, content, message):
    (folder / IMAGES).write_bytes(content)

    with pytest.raises(InputError, match=f"{IMAGES}: {message}"):
        load_emnist(folder, "letters", "train")


def packed() -> bytes:
    return gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)), mtime=0)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", packed()[:-9], packed()[:15] + b"\xff\xff" + packed()[17:]],
)
def test_a_damaged_gzip_file_is_named(folder, content):
    (folder / IMAGES).unlink()
    (folder / f"{IMAGES}.gz").write_bytes(content)

    with pytest.raises(InputError, match=IMAGES):
        load_emnist(folder, "letters", "train")


def test_counts_that_differ_are_told(folder):
    (folder / LABELS).write_bytes(idx(np.array([1, 2], np.uint8)))

    with pytest.raises(InputError, match=f"^{STEM}: 3 images do not fit 2 labels"):
        load_emnist(folder, "letters", "train")


def test_a_label_below_the_first_letter_is_told(folder):
    (folder / LABELS).write_bytes(idx(np.array([0, 1, 2], np.uint8)))

    with pytest.raises(InputError, match=rf"{STEM}: labels: values -1\.\.1 do not fit"):
        load_emnist(folder, "letters", "train")


def test_glyphs_of_another_size_are_told(folder):
    (folder / IMAGES).write_bytes(idx(np.zeros((3, 28, 20), np.uint8)))

    with pytest.raises(InputError, match=rf"{STEM}: observation: shape \[28, 20\] is not"):
        load_emnist(folder, "letters", "train")
