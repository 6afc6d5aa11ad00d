import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, PngImagePlugin

from fedhw.errors import InputError
from fedhw.handwriting.pictures import load_picture
from fedhw.handwriting.strokes import rasterise
from fedhw.handwriting.synthetic import synthetic_writers
from tests.handwriting.pictures_of_letters import LETTERS, difference, drawn

GLYPH = synthetic_writers(1, 1).observations[0]

ALIKE = 0.03
"""Glyphs of other letters differ by 0.15 and more."""

ORIENTATION = 0x0112


def saved(folder: Path, pixels: np.ndarray, name: str = "glyph.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def kept(folder: Path, image: Image.Image, name: str = "letter.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_a_glyph_comes_back_as_it_is(tmp_path: Path) -> None:
    assert np.abs(load_picture(saved(tmp_path, GLYPH)).astype(int) - GLYPH).max() <= 8


def test_dark_ink_on_white_paper_is_turned(tmp_path: Path) -> None:
    ours = load_picture(saved(tmp_path, 255 - GLYPH)).astype(int)
    assert np.abs(ours - GLYPH).max() <= 8


def test_where_and_how_large_does_not_matter(tmp_path: Path) -> None:
    large = np.full((400, 300, 3), 240, np.uint8)
    usual = rasterise(LETTERS["R"])
    large[50:162, 20:132] = 240 - np.kron(usual, np.ones((4, 4), np.uint8))[..., None] * 0.9
    ours = load_picture(saved(tmp_path, large, "photo.png")).astype(float)
    assert np.abs(ours - usual).mean() / 255 < 0.06


def test_ink_on_a_transparent_ground(tmp_path: Path) -> None:
    pixels = np.dstack([np.zeros((28, 28, 3), np.uint8), GLYPH])
    ours = load_picture(saved(tmp_path, pixels)).astype(int)
    assert np.abs(ours - GLYPH).max() <= 8


def test_deep_greys_are_not_clipped(tmp_path: Path) -> None:
    deep = saved(tmp_path, GLYPH.astype(np.uint16) * 257)
    assert np.abs(load_picture(deep).astype(int) - GLYPH).max() <= 8


@pytest.mark.parametrize("pen", [0.02, 0.06, 0.14, 0.25])
@pytest.mark.parametrize("letter", LETTERS)
def test_any_pen_gives_the_glyph_of_the_strokes(tmp_path: Path, letter: str, pen: float) -> None:
    assert difference(kept(tmp_path, drawn(letter, pen)), letter) < ALIKE


@pytest.mark.parametrize("size", [24, 60, 1500])
def test_any_size_gives_the_glyph_of_the_strokes(tmp_path: Path, size: int) -> None:
    assert difference(kept(tmp_path, drawn(side=size))) < 2 * ALIKE


def test_a_small_letter_on_a_large_page(tmp_path: Path) -> None:
    page = Image.new("L", (1400, 1000), 240)
    page.paste(drawn(side=100, paper=240), (900, 700))
    assert difference(kept(tmp_path, page)) < ALIKE


def test_a_letter_cropped_to_its_ink(tmp_path: Path) -> None:
    letter = drawn()
    assert (
        difference(kept(tmp_path, letter.crop(Image.eval(letter, lambda v: 255 - v).getbbox())))
        < ALIKE
    )


@pytest.mark.parametrize(("paper", "ink"), [(230, 180), (20, 230), (128, 200)])
def test_ink_is_what_differs_from_paper(tmp_path: Path, paper: int, ink: int) -> None:
    assert difference(kept(tmp_path, drawn(paper=paper, ink=ink))) < ALIKE


@pytest.mark.parametrize(
    ("paper", "ink"), [((255, 255, 255), (255, 240, 60)), ((40, 130, 40), (200, 50, 40))]
)
def test_coloured_ink(tmp_path: Path, paper: tuple[int, ...], ink: tuple[int, ...]) -> None:
    covered = np.asarray(drawn(), float)[..., None] / 255
    pixels = (covered * paper + (1 - covered) * ink).astype(np.uint8)
    assert difference(saved(tmp_path, pixels)) < ALIKE


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 0.45), st.floats(0, 2 * np.pi), st.sampled_from([0.04, 0.14]))
def test_light_from_any_side(tmp_path_factory: pytest.TempPathFactory, shade, angle, pen) -> None:
    down, right = np.mgrid[-1:1:150j, -1:1:150j]
    dark = np.cos(angle) * right + np.sin(angle) * down
    light = 1 - shade * (dark - dark.min()) / np.ptp(dark)
    noise = np.random.default_rng(0).normal(0, 3, light.shape)
    grey = np.asarray(drawn(pen=pen, side=150, paper=235, ink=40), float) * light + noise
    path = tmp_path_factory.mktemp("shade")
    assert difference(saved(path, grey.clip(0, 255).astype(np.uint8), "photo.jpg")) < ALIKE


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (250, 250, 245)])
def test_what_is_opaque_is_ink(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    clear = Image.new("RGBA", (200, 200), (*colour, 0))
    clear.putalpha(Image.eval(drawn(), lambda v: 255 - v))
    assert difference(kept(tmp_path, clear)) < ALIKE


def test_an_opaque_card_on_a_transparent_ground_is_paper(tmp_path: Path) -> None:
    card = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(card).rounded_rectangle((0, 0, 199, 199), 30, fill="white")
    card.paste("black", mask=Image.eval(drawn(), lambda v: 255 - v))
    assert difference(kept(tmp_path, card)) < ALIKE


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *(("1", "a.png"), ("P", "a.png"), ("P", "a.gif"), ("LA", "a.png"), ("CMYK", "a.tif")),
        *(("CMYK", "a.jpg"), ("RGB", "a.bmp"), ("RGB", "a.webp"), ("L", "a.pgm"), ("F", "a.tif")),
    ],
)
def test_every_kind_of_file(tmp_path: Path, mode: str, name: str) -> None:
    assert difference(kept(tmp_path, drawn().convert(mode), name)) < ALIKE


def test_blocks_of_a_poor_jpeg_are_not_ink(tmp_path: Path) -> None:
    assert difference(kept(tmp_path, drawn(), "poor.jpg", quality=8)) < ALIKE


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_picture_is_turned_as_its_exif_says(
    tmp_path: Path, orientation: int, turn: Image.Transpose, name: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lying = drawn("4", side=100).convert("RGB").transpose(turn)
    assert difference(kept(tmp_path, lying, name, exif=exif), "4") < 2 * ALIKE


def test_damaged_exif_data_is_ignored(tmp_path: Path) -> None:
    damaged = kept(tmp_path, drawn(), "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12")
    assert difference(damaged) < ALIKE


def dotted(page: Image.Image) -> None:
    for x, y in ((3, 5), (190, 4), (10, 190), (100, 12)):
        page.putpixel((x, y), 0)


def framed(page: Image.Image) -> None:
    ImageDraw.Draw(page).rectangle((0, 0, 199, 199), outline=0, width=4)


def boxed(page: Image.Image) -> None:
    ImageDraw.Draw(page).rectangle((6, 6, 194, 192), outline=0, width=3)


def cornered(page: Image.Image) -> None:
    ImageDraw.Draw(page).line([(0, 0), (0, 199), (199, 199)], fill=0, width=6)


def neighboured(page: Image.Image) -> None:
    ImageDraw.Draw(page).line([(199, 80), (180, 90), (199, 120)], fill=0, width=8)


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("spoil", [dotted, framed, boxed, cornered, neighboured])
def test_specks_frames_and_neighbours_are_not_the_letter(tmp_path: Path, letter, spoil) -> None:
    page = drawn(letter)
    spoil(page)
    assert difference(kept(tmp_path, page), letter) < ALIKE


def test_a_dot_far_away_is_not_the_letter(tmp_path: Path) -> None:
    page = Image.new("L", (300, 300), 255)
    page.paste(drawn("i"), (50, 50))
    ImageDraw.Draw(page).ellipse((2, 2, 16, 16), fill=0)
    assert difference(kept(tmp_path, page), "i") < ALIKE


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated"])
def test_an_unreadable_image_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad.png: is not a readable image; save it as PNG$"):
        load_picture(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp"])
def test_a_cut_off_image_is_one_sentence(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)
    whole = saved(tmp_path, noise, name)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match="is not a readable image"):
        load_picture(whole)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_damaged_image_is_read_or_refused(tmp_path_factory, data) -> None:
    file = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    drawn(side=60).save(file, kind)
    damaged = bytearray(file.getvalue())
    for _ in range(3):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(damaged)
    with contextlib.suppress(InputError):
        assert load_picture(path).shape == (28, 28)


@pytest.mark.parametrize("noise", [0, 6])
def test_an_empty_page_is_one_sentence(tmp_path: Path, noise: float) -> None:
    page = np.linspace(150, 240, 80) + np.random.default_rng(0).normal(0, noise, (80, 80))
    with pytest.raises(InputError, match="shows no ink; give a picture of one character"):
        load_picture(saved(tmp_path, page.clip(0, 255).astype(np.uint8)))


def test_a_missing_image_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_picture(tmp_path / "none.png")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_several_pages_are_refused(tmp_path: Path, name: str) -> None:
    several = kept(tmp_path, drawn("4"), name, save_all=True, append_images=[drawn("R")])
    with pytest.raises(InputError, match="has 2 pages; save the one of the character as PNG"):
        load_picture(several)


def png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel, written without holding it."""
    row = b"\0" * (1 + width // 8)
    deflate = zlib.compressobj(9)
    pixels = b"".join(deflate.compress(row * 100) for _ in range(height // 100)) + deflate.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8000, 12000, 16000])
def test_too_many_pixels_are_refused_in_one_sentence(tmp_path: Path, side: int, recwarn) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png(side, side))
    with pytest.raises(InputError, match=r"scan.png: has over 50 megapixels; crop it to the char"):
        load_picture(path)
    assert not recwarn


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(InputError, match="is over 64 MiB; crop it to the character"):
        load_picture(path)


def test_text_that_inflates_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "0" * 30_000_000, zip=True)
    with pytest.raises(InputError, match="is not a readable image"):
        load_picture(kept(tmp_path, drawn(), pnginfo=info))


def test_the_largest_picture_takes_bounded_memory(tmp_path: Path) -> None:
    page = Image.new("RGBA", (4096, 4096), "white")  # the largest that is not reduced
    page.paste(drawn(side=2000).convert("RGBA"), (1000, 1500))
    page.putpixel((0, 0), (0, 0, 0, 0))
    path = kept(tmp_path, page)
    code = (
        "import resource, sys; from pathlib import Path; "
        "from fedhw.handwriting.pictures import load_picture; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "load_picture(Path(sys.argv[1])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 250e6


def test_a_dithered_picture_takes_bounded_memory(tmp_path: Path) -> None:
    page = np.full((512, 512), 255, np.uint8)
    page[::2, ::2] = 0
    tracemalloc.start()
    with suppress(InputError):
        load_picture(kept(tmp_path, Image.fromarray(page)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200e6
