import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.handwriting.stroke_file import StrokeFile


def test_a_stroke_file_is_read_back(tmp_path):
    points = np.arange(12, dtype=np.int16).reshape(6, 2)
    np.savez(tmp_path / "pen.npz", points=points, pen_up=[0, 1, 1, 0, 0, 1], offsets=[0, 3, 6])
    file = StrokeFile.read(tmp_path / "pen.npz")
    assert len(file) == 2
    assert [stroke.tolist() for stroke in file[0]] == [[[0, 1], [2, 3]], [[4, 5]]]
    assert [stroke.tolist() for stroke in file[1]] == [[[6, 7], [8, 9], [10, 11]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((6, 3))}, "points: shape"),
        ({"pen_up": np.zeros(5, int)}, "pen_up: shape"),
        ({"offsets": np.array([0, 4, 3, 6])}, "offsets: they do not ascend"),
        ({"offsets": np.array([0, 7])}, "offsets: they do not ascend"),
        ({"points": np.array([[None, None]] * 6)}, "no npz archive"),
    ],
)
def test_unusable_stroke_files_are_refused(tmp_path, change, message):
    arrays = {
        "points": np.zeros((6, 2)),
        "pen_up": np.zeros(6, int),
        "offsets": np.array([0, 6]),
    }
    np.savez(tmp_path / "pen.npz", **(arrays | change), allow_pickle=True)
    with pytest.raises(InputError, match=message):
        StrokeFile.read(tmp_path / "pen.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "pen.npz").write_text("points")
    with pytest.raises(InputError, match="no npz archive"):
        StrokeFile.read(tmp_path / "pen.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, share):
    path = tmp_path / "pen.npz"
    points = np.random.default_rng(0).integers(0, 1000, (600, 2))
    np.savez_compressed(path, points=points, pen_up=np.zeros(600, int), offsets=[0, 600])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="no npz archive"):
        StrokeFile.read(path)
