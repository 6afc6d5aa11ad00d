import json
from pathlib import Path

import pytest

from fedhw.data.sources import load_source
from fedhw.errors import InputError
from fedhw.handwriting.leaf import load_leaf


def character(ink: float) -> list[float]:
    """White paper with one pixel of ink in row 3, column 5."""
    paper = [1.0] * 784
    paper[3 * 28 + 5] = 1 - ink
    return paper


def write(file: Path, **users: dict[str, list[object]]) -> Path:
    content = {"users": list(users), "num_samples": [len(u["y"]) for u in users.values()]}
    file.write_text(json.dumps(content | {"user_data": users}))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "all_data_0.json",
        f0001_14={"x": [character(1), character(0.2)], "y": [0, 36]},
        f0000_14={"x": [character(0.6)], "y": [10]},
    )
    write(tmp_path / "all_data_1.json", f0001_14={"x": [character(0.4)], "y": [35]})
    return tmp_path


def test_it_is_read_with_ink_bright_and_every_writer_once(folder: Path) -> None:
    writers = load_source(f"femnist:{folder}")

    assert writers.names == ("f0001_14", "f0000_14")
    assert writers.rows_of(0).tolist() == [0, 1, 3]
    assert "".join(writers.classes[label] for label in writers.labels) == "0aAZ"
    assert writers.observations[:, 3, 5].tolist() == [255, 51, 153, 102]
    assert writers.observations.sum() == 255 + 51 + 153 + 102


@pytest.mark.parametrize(
    "users",
    [
        {"ann": {"x": [[1.0] * 783], "y": [0]}},
        {"ann": {"x": [[255.0] * 784], "y": [0]}},
        {"ann": {"x": [[float("nan")] * 784], "y": [0]}},
        {"ann": {"x": [character(1)], "y": [0, 1]}},
        {"ann": {"x": [character(1)], "y": ["a"]}},
        {"ann": {"x": ["To be, or not to be"], "y": [","]}},
        {"ann": {"y": [0]}},
    ],
)
def test_anything_else_is_named_with_its_file(tmp_path: Path, users: dict) -> None:
    file = write(tmp_path / "all_data_0.json", **users)

    with pytest.raises(InputError, match=f"^{file}: is not FEMNIST of LEAF"):
        load_leaf(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"user_data": 5}', "[" * 100_000])
def test_another_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "some.json").write_text(content)

    with pytest.raises(InputError, match=r"some\.json: is not FEMNIST of LEAF"):
        load_leaf(tmp_path)


def test_a_label_outside_is_named(tmp_path: Path) -> None:
    write(tmp_path / "all_data_0.json", ann={"x": [character(1)], "y": [62]})

    with pytest.raises(InputError, match="labels: value 62 is outside"):
        load_leaf(tmp_path)


def test_a_folder_without_writers_is_named(tmp_path: Path) -> None:
    write(tmp_path / "all_data_0.json")

    with pytest.raises(InputError, match=r"holds no writer in a \.json file"):
        load_leaf(tmp_path)


def test_a_writer_without_samples_is_left_out(folder: Path) -> None:
    write(folder / "all_data_2.json", f0002_14={"x": [], "y": []})
    assert load_leaf(folder).names == ("f0001_14", "f0000_14")


def test_a_number_without_end_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "all_data_0.json", f0001_14={"x": [[10**400] * 784], "y": [0]})
    with pytest.raises(InputError, match=r"all_data_0\.json: is not FEMNIST of LEAF \(OverflowErr"):
        load_leaf(tmp_path)
