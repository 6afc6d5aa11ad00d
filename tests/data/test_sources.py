from pathlib import Path

import numpy as np
import pytest

from fedhw.data.npz import save_npz
from fedhw.data.sources import load_source, source_identity
from fedhw.errors import InputError
from fedhw.handwriting.synthetic import synthetic_writers


def test_an_npz_file_is_a_source(tmp_path: Path) -> None:
    writers = synthetic_writers(2, 5)
    save_npz(tmp_path / "two.npz", writers)
    assert np.array_equal(load_source(str(tmp_path / "two.npz")).observations, writers.observations)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "data: '' is not a source; give one of FILE.npz, .*synthetic"),
        ("paper.pdf", "data: 'paper.pdf' is not a source; give one of FILE.npz, .*femnist"),
        ("npz", "data: 'npz' is not a source"),
        ("emnist", "data: emnist lacks its folder; give emnist:FOLDER"),
        ("emnist:", "data: emnist lacks its folder"),
        ("unipen:", "data: unipen lacks its folder"),
        ("digilets", "data: digilets lacks its folder"),
        ("synthetic:7", "data: synthetic takes no '7'; give synthetic"),
    ],
)
def test_anything_else_is_one_sentence(source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
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


def test_a_folder_is_identified_by_its_content(tmp_path: Path) -> None:
    def identity(name: str, **files: str) -> str:
        folder = tmp_path / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content)
        return source_identity(f"unipen:{folder}", 0)

    same = [identity("a", x="1", y="2"), identity("b", x="1", y="2")]
    others = [identity("c", x="1", y="3"), identity("d", x="1", z="2"), identity("a", x="2")]
    assert same[0] == same[1]
    assert len({*same, *others}) == 4
    assert source_identity(f"digilets:{tmp_path / 'b'}", 0) not in {*same, *others}
    assert source_identity("synthetic", 0) != source_identity("synthetic", 1)
