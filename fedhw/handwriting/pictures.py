"""Pictures of single characters, as a camera, scanner or drawing program saves them."""

import warnings
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fedhw.data.encoders import Encoder
from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH, SIDE
from fedhw.handwriting.line_width import with_usual_line
from fedhw.handwriting.segmentation import character_on

MAX_PIXELS = 50_000_000
"""The most pixels of a picture; they take 200 MB while it is read."""

MAX_FILE_BYTES = 64 * 2**20
"""The most bytes of a picture's file."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, in Pillow's names; its other formats start programs or take more memory a pixel."""

_PAGE_PIXELS = 4096  # the longer side of a page, at most
_BAND_ROWS = 64  # of a page, reduced at a time

_LEAST_CONTRAST = 16  # of a glyph, in levels of 255

_COLOURS = 2**18  # about so many pixels tell the colour of the paper

_MOST_GROUND = 0.5  # at most this share of a picture is ink on a transparent ground
_ONE_COLOUR = 48  # levels within which nearly all of an ink's colours are

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_picture(path: Path) -> NDArray[np.uint8]:
    """Read one character from an image file as a glyph [28, 28], ink 255 on paper 0.

    The picture is turned as its EXIF orientation says. Colours, light, place, size and the line's
    width do not matter; the line becomes as wide as that of `rasterise`. A picture of 28 x 28
    pixels is a glyph already: only its brightness is adapted. Raises InputError for a file that is
    too large, is not a picture, has several pages or shows no ink.
    """
    page = _on_paper(_page(path))
    if page.size == (SIDE, SIDE):
        glyph = _brightened(np.asarray(page.convert("L"), np.float32))
    else:
        ink = character_on(page)
        glyph = with_usual_line(ink) if ink.any() else None
    if glyph is None:
        raise InputError(f"{path}: shows no ink; give a picture of one character with a margin")
    return glyph


def _page(path: Path) -> Image.Image:
    """The picture in RGBA, upright as viewers show it, its longer side at most `_PAGE_PIXELS`."""
    # Pillow warns of many things that do not matter here, and raises whatever a damaged file
    # leads to.
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(
                    f"{path}: is over {MAX_FILE_BYTES >> 20} MiB; crop it to the character"
                )
            image = Image.open(file, formats=FORMATS)
            _check_size(path, image)
            return _upright(image)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give the path of an image") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except (Image.DecompressionBombError, MemoryError):
        raise _too_large(path) from None
    except InputError:
        raise
    except Exception:
        raise InputError(f"{path}: is not a readable image; save it as PNG") from None


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # a camera's JPEG with a preview in it
        raise InputError(f"{path}: has {pages} pages; save the one of the character as PNG")


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path}: has over {MAX_PIXELS // 10**6} megapixels; crop it to the character"
    )


def _upright(image: Image.Image) -> Image.Image:
    # In bands, since a picture in another mode is another 200 MB.
    image.load()
    factor = ceil(max(image.size) / _PAGE_PIXELS)
    page = Image.new("RGBA", (ceil(image.width / factor), ceil(image.height / factor)))
    deep = image.mode[0] in "IF"
    darkest, brightest = np.ravel(image.getextrema())[:2]
    for top in range(0, image.height, _BAND_ROWS * factor):
        bottom = min(top + _BAND_ROWS * factor, image.height)
        band = image.crop((0, top, image.width, bottom))
        if deep:
            above = np.asarray(band, np.float32) - darkest
            band = Image.fromarray(
                (above * (255 / max(brightest - darkest, 1e-9))).astype(np.uint8)
            )
        page.paste(band.convert("RGBA").reduce(factor), (0, top // factor))
    turn = _turn(image)
    return page if turn is None else page.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data, which viewers ignore
        return None


def _on_paper(page: Image.Image) -> Image.Image:
    """Lay a picture in RGBA on opaque paper, in RGB; opaque ink becomes black on white."""
    pixels = np.asarray(page)
    colour, opacity = pixels[..., :3], pixels[..., 3]
    opaque = opacity > 127
    if opaque.all():
        return page.convert("RGB")
    colours = colour[opaque]
    colours = colours[:: max(1, len(colours) // _COLOURS)].astype(np.int16)
    paper = np.median(colours, axis=0) if len(colours) else np.zeros(3)
    paper = paper.astype(np.uint8)
    unlike = np.abs(colours - paper).max(axis=1) > _ONE_COLOUR
    if opaque.mean() < _MOST_GROUND or unlike.mean() < 0.02:
        return Image.fromarray(255 - opacity).convert("RGB")
    return Image.fromarray(np.where(opaque[..., None], colour, paper))


def _brightened(grey: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """A glyph of full contrast, ink 255 on paper 0, whose brightness is that of the edge."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    contrast = np.abs(grey - np.median(edge))
    if contrast.max() < _LEAST_CONTRAST:
        return None
    glyph: NDArray[np.uint8] = (contrast * (255 / contrast.max())).astype(np.uint8)
    return glyph


FROM_PICTURE = Encoder(GLYPH, load_picture)
