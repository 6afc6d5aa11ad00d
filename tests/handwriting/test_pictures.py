from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhw.errors import InputError
from fedhw.handwriting.pictures import load_picture
from fedhw.handwriting.synthetic import synthetic_writers

GLYPH = synthetic_writers(1, 1).observations[0]


def saved(folder: Path, pixels: np.ndarray, name: str = "glyph.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_glyph_comes_back_as_it_is(tmp_path: Path) -> None:
    assert np.abs(load_picture(saved(tmp_path, GLYPH)).astype(int) - GLYPH).max() <= 8


def test_dark_ink_on_white_paper_is_turned(tmp_path: Path) -> None:
    ours = load_picture(saved(tmp_path, 255 - GLYPH)).astype(int)
    assert np.abs(ours - GLYPH).max() <= 8


def test_where_and_how_large_does_not_matter(tmp_path: Path) -> None:
    large = np.full((400, 300, 3), 240, np.uint8)
    large[50:162, 20:132] = 240 - np.kron(GLYPH, np.ones((4, 4), np.uint8))[..., None] * 0.9
    ours = load_picture(saved(tmp_path, large, "photo.png")).astype(float)
    assert np.abs(ours - GLYPH).mean() / 255 < 0.06


def test_ink_on_a_transparent_ground(tmp_path: Path) -> None:
    pixels = np.dstack([np.zeros((28, 28, 3), np.uint8), GLYPH])
    ours = load_picture(saved(tmp_path, pixels)).astype(int)
    assert np.abs(ours - GLYPH).max() <= 8


def test_deep_greys_are_not_clipped(tmp_path: Path) -> None:
    deep = saved(tmp_path, GLYPH.astype(np.uint16) * 257)
    assert np.abs(load_picture(deep).astype(int) - GLYPH).max() <= 8


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated"])
def test_an_unreadable_image_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad.png: is not a readable image; save it as PNG$"):
        load_picture(path)


def test_a_cut_off_image_is_one_sentence(tmp_path: Path) -> None:
    whole = saved(tmp_path, np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8))
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(InputError, match="is not a readable image"):
        load_picture(whole)


def test_an_empty_page_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shows no ink; give a picture of one character"):
        load_picture(saved(tmp_path, np.full((60, 60), 250, np.uint8)))


def test_a_missing_image_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_picture(tmp_path / "none.png")
