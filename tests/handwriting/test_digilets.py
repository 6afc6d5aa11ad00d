from pathlib import Path

import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.handwriting.digilets import load_digilets
from fedhw.handwriting.strokes import rasterise

# The order of the label's columns, as the repository tells it.
SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

ELL = [[(0.2, 0.9), (0.2, 0.1), (0.6, 0.1)]]
CROSS = [[(0.1, 0.8), (0.9, 0.2)], [(0.1, 0.2), (0.5, 0.5), (0.9, 0.8)]]


def points(strokes: list[list[tuple[float, float]]]) -> str:
    """Points with y up, pressure, the mark of a stroke's first point, and the time."""
    return " ".join(
        f"{x:f} {y:f} 0.300000 {int(number == 0)} {0.02 * number:f}"
        for stroke in strokes
        for number, (x, y) in enumerate(stroke)
    )


def one_hot(symbol: str) -> str:
    return " ".join(str(float(column == symbol)) for column in SYMBOLS)


def written(*characters: tuple[str, list[list[tuple[float, float]]]]) -> str:
    return "".join(f"{points(strokes)}\n{one_hot(symbol)}\n" for symbol, strokes in characters)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    complete = tmp_path / "complete"
    complete.mkdir()
    (tmp_path / "corrupted").mkdir()
    ann = written(("0", ELL), ("a", CROSS), ("Z", ELL))
    (complete / "004-f-22-left_2019-06-05-12-19-08_preprocessed").write_text(ann)
    (complete / "004-f-22-left_2019-06-05-12-19-08_preprocessed_info").write_text("0 0 0\n")
    bo = written(("z", CROSS), ("A", CROSS))
    (complete / "002-m-30-right_2019-06-05-12-21-29_preprocessed").write_text(bo)
    (tmp_path / "corrupted" / "001-f-19-right_2019_preprocessed").write_text("broken\n")
    return tmp_path


def test_the_complete_writers_come_by_number_in_the_order_of_writing(folder):
    writers = load_digilets(folder)

    assert writers.names == ("002", "004")
    assert writers.writer.tolist() == [0, 0, 1, 1, 1]
    assert "".join(writers.classes[label] for label in writers.labels) == "zA0aZ"
    assert writers.rows_of(1).tolist() == [2, 3, 4]


def test_strokes_are_drawn_upright_and_apart(folder):
    images = load_digilets(folder).observations

    assert images[2].tolist() == rasterise([np.array([[2, 1], [2, 9], [6, 9]])]).tolist()
    assert np.array_equal(
        images[0], rasterise([np.array([[1, 2], [9, 8]]), np.array([[1, 8], [5, 5], [9, 2]])])
    )


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_column_means_its_symbol(tmp_path, symbol):
    (tmp_path / "complete").mkdir()
    (tmp_path / "complete" / "010-x_preprocessed").write_text(written((symbol, ELL)))

    writers = load_digilets(tmp_path)

    assert writers.classes[writers.labels[0]] == symbol


def test_a_first_point_begins_a_stroke_even_without_its_mark(tmp_path):
    (tmp_path / "complete").mkdir()
    text = written(("0", ELL)).replace(" 1 0.000000", " 0 0.000000", 1)
    (tmp_path / "complete" / "010-x_preprocessed").write_text(text)

    assert load_digilets(tmp_path).observations[0].max() > 200


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_writers_is_named(tmp_path, name):
    with pytest.raises(InputError, match="holds no file complete/NNN-"):
        load_digilets(tmp_path / name)


GOOD = points(ELL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": 0 lines are not pairs"),
        (f"{GOOD}\n", ": 1 lines are not pairs"),
        (
            f"{GOOD} 1\n{one_hot('a')}\n",
            ":1: 16 numbers are not whole points of x, y, pressure, pen_down",
        ),
        (f"\n{one_hot('a')}\n", ":1: 0 numbers are not whole points of"),
        (f"{GOOD} x\n{one_hot('a')}\n", ":1: not all are numbers"),
        (
            f"{GOOD.replace('0.200000', 'nan', 1)}\n{one_hot('a')}\n",
            ":1: strokes: a coordinate is not a number within",
        ),
        (f"{GOOD}\n{one_hot('a')} 0\n", ":2: is not a row of 62 numbers, one of them 1"),
        (f"{GOOD}\n{one_hot('?')}\n", ":2: is not a row of 62 numbers, one of them 1"),
        (f"{GOOD}\n{one_hot('a').replace('0.0', '1.0', 1)}\n", ":2: is not a row of 62"),
        (f"{GOOD}\n{one_hot('a').replace('0.0', '-1', 1)}\n", ":2: is not a row of 62"),
        ("caf\xe9\n\n", ": cannot be read as text"),
    ],
)
def test_what_is_not_in_the_format_is_told_with_file_and_line(folder, text, message):
    path = folder / "complete" / "002-m-30-right_2019-06-05-12-21-29_preprocessed"
    path.write_text(text, "latin-1")

    with pytest.raises(InputError, match=f"^{path}{message}"):
        load_digilets(folder)
