import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.femnist import load_femnist

# Features as data: `datasets` takes seconds to import, and every process collects this file.
IMAGE, INTEGER = {"_type": "Image"}, {"_type": "Value", "dtype": "int64"}
FEATURES = {
    "image": IMAGE,
    "writer_id": {"_type": "Value", "dtype": "string"},
    "hsf_id": INTEGER,
    "character": {"_type": "ClassLabel", "names": list(BYCLASS)},
}


def paper(ink: int = 255) -> Image.Image:
    """White paper, 28 x 28, with one pixel of ink of this value in row 3, column 5."""
    glyph = np.full((28, 28), 255, np.uint8)
    glyph[3, 5] = ink
    return Image.fromarray(glyph)


def columns() -> dict[str, list[Any]]:
    """Writer f1 wrote 0, a and Z; writer f0 wrote A, between them."""
    return {
        "image": [paper(0), paper(10), paper(20), paper(30)],
        "writer_id": ["f0001_14", "f0000_14", "f0001_14", "f0001_14"],
        "hsf_id": [0, 1, 0, 0],
        "character": [BYCLASS.index(character) for character in "0AaZ"],
    }


def dataset(**changed: Any) -> Any:
    """A dataset of FEMNIST's schema with some columns exchanged for (feature, values)."""
    import datasets

    values, features = columns(), dict(FEATURES)
    for column, (feature, rows) in changed.items():
        values[column], features[column] = rows, feature
    return datasets.Dataset.from_dict(values, features=datasets.Features.from_dict(features))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset().to_parquet(tmp_path / "train-00000.parquet")
    return tmp_path


def test_ink_is_bright_on_dark_paper(folder):
    images = load_femnist(folder).observations

    assert images[:, 3, 5].tolist() == [255, 245, 235, 225]
    images[:, 3, 5] = 0
    assert not images.any()


def test_labels_mean_the_characters(folder):
    writers = load_femnist(folder)

    assert "".join(writers.classes[label] for label in writers.labels) == "0AaZ"


def test_writers_stand_in_the_order_of_the_rows(folder):
    writers = load_femnist(folder)

    assert writers.names == ("f0001_14", "f0000_14")
    assert writers.rows_of(0).tolist() == [0, 2, 3]
    assert writers.rows_of(1).tolist() == [1]


def test_files_are_read_one_after_the_other(folder):
    later = dataset(writer_id=(FEATURES["writer_id"], ["f0002_14"] * 4))
    later.to_parquet(folder / "train-00001.parquet")

    writers = load_femnist(folder)

    assert len(writers) == 8
    assert writers.names == ("f0001_14", "f0000_14", "f0002_14")


def test_the_hub_is_reached_through_flower(monkeypatch):
    asked = {}

    class Hub:
        def __init__(self, **arguments):
            asked.update(arguments)

        def load_split(self, split):
            asked["split"] = split
            return dataset()

    monkeypatch.setattr("flwr_datasets.FederatedDataset", Hub)

    writers = load_femnist()

    assert len(writers) == 4
    assert asked == {
        "dataset": "flwrlabs/femnist",
        "partitioners": {},
        "shuffle": False,
        "split": "train",
    }


def test_without_a_network_a_folder_is_asked_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)

    with pytest.raises(InputError, match="network or give a folder of its parquet files"):
        load_femnist()


@pytest.mark.parametrize("missing", ["datasets", "flwr_datasets"])
def test_without_the_extra_its_name_is_told(folder, monkeypatch, missing):
    importing = builtins.__import__

    def import_all_but(name, *rest):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", import_all_but)

    with pytest.raises(InputError, match=rf"{missing}: is not .*pip install 'fedhw\[simulation\]'"):
        load_femnist(folder)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_parquet_files_is_named(tmp_path, name):
    with pytest.raises(InputError, match=r"holds no \.parquet file"):
        load_femnist(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_damaged_file_is_refused(folder, content):
    (folder / "train-00001.parquet").write_bytes(content)

    with pytest.raises(InputError, match="parquet files are empty, damaged or unlike each other"):
        load_femnist(folder)


def test_files_of_different_schemas_are_refused(folder):
    other = dataset(image=(INTEGER, [1, 2, 3, 4]))
    other.to_parquet(folder / "train-00001.parquet")

    with pytest.raises(InputError, match="parquet files are empty, damaged or unlike each other"):
        load_femnist(folder)


@pytest.mark.parametrize("column", ["image", "writer_id", "character"])
def test_a_missing_column_is_named(folder, column):
    dataset().remove_columns(column).to_parquet(folder / "train-00000.parquet")

    with pytest.raises(InputError, match=f"^{column}: the files have no such column"):
        load_femnist(folder)


@pytest.mark.parametrize("column", ["image", "writer_id", "character"])
def test_a_row_without_a_value_is_refused(folder, column):
    rows = [None, *columns()[column][1:]]
    dataset(**{column: (FEATURES[column], rows)}).to_parquet(folder / "train-00000.parquet")

    with pytest.raises(InputError, match=f"^{column}: some rows have no value"):
        load_femnist(folder)


@pytest.mark.parametrize(
    ("column", "feature", "rows", "message"),
    [
        ("image", INTEGER, [1, 2, 3, 4], "image: the column does not hold"),
        (
            "image",
            IMAGE,
            [paper(), paper(), paper().resize((28, 32)), paper()],
            r"image: row 2 has size \(28, 32\)",
        ),
        (
            "image",
            IMAGE,
            [paper(), {"bytes": b"no picture", "path": None}, paper(), paper()],
            "image: row 1 is no readable picture",
        ),
        ("character", INTEGER, [0, 1, 2, 3], "character: classes are not"),
        (
            "character",
            FEATURES["character"] | {"names": sorted(BYCLASS, key=str.swapcase)},
            [0, 1, 2, 3],
            "character: classes are not 0-9, A-Z, a-z in this order",
        ),
        ("character", FEATURES["character"], [0, 1, 2, -1], r"labels: values -1\.\.2 do not fit"),
    ],
)
def test_a_wrong_column_is_named(folder, column, feature, rows, message):
    dataset(**{column: (feature, rows)}).to_parquet(folder / "train-00000.parquet")

    with pytest.raises(InputError, match=f"^{message}"):
        load_femnist(folder)


def test_files_without_rows_are_refused(folder):
    dataset().select([]).to_parquet(folder / "train-00000.parquet", batch_size=1)

    with pytest.raises(InputError, match="parquet files are empty, damaged or unlike each other"):
        load_femnist(folder)


def test_reading_a_folder_leaves_no_copy_behind(folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("tempfile.tempdir", str(cache))

    load_femnist(folder)

    assert list(cache.iterdir()) == []
