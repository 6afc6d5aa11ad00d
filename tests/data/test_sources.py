from pathlib import Path

import numpy as np
import pytest

from fedhw.data.npz import save_npz
from fedhw.data.sources import load_source
from fedhw.errors import InputError
from fedhw.handwriting.synthetic import synthetic_writers


def test_an_npz_file_is_a_source(tmp_path: Path) -> None:
    writers = synthetic_writers(2, 5)
    save_npz(tmp_path / "two.npz", writers)
    assert np.array_equal(load_source(str(tmp_path / "two.npz")).images, writers.images)


def test_synthetic_writers_come_by_number() -> None:
    assert load_source("synthetic", seed=3, synthetic=[8]).names == ("synthetic-3-8",)


@pytest.mark.parametrize(
    "source", ["", "emnist", "emnist:", "unipen:", "digilets", "paper.pdf", "npz"]
)
def test_anything_else_is_one_sentence(source: str) -> None:
    with pytest.raises(InputError, match=f"data: {source!r} is no source; give FILE.npz"):
        load_source(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("femnist:none", r"none: holds no \.parquet file"),
        ("emnist:none", "none/emnist-byclass-train-images-idx3-ubyte: there is no such file"),
        ("unipen:none", "none: holds no folder data"),
        ("digilets:none", "none: holds no file complete/"),
    ],
)
def test_a_folder_goes_to_the_loader_of_its_kind(source: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        load_source(source)
