"""Pictures of single characters, as a camera, scanner or drawing program saves them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fedhw.data.encoders import Encoder
from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH, SIDE

INK = 0.15
"""A pixel is ink from this fraction of the picture's contrast on."""

BORDER = 2 / 24
"""EMNIST's border on every side, as a fraction of the side (arXiv 1702.05373)."""


def load_picture(path: Path) -> NDArray[np.uint8]:
    """Read one character from an image file as a glyph [28, 28], ink 255 on paper 0.

    Ink may be darker or lighter than paper, whose brightness is that of the picture's edge. A
    picture of 28 x 28 pixels keeps its size; any other is cropped to its ink, centred in a square
    and scaled. Raises InputError for a file that is not a picture or shows no ink.
    """
    try:
        with Image.open(path) as image:
            grey = _grey(image)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give the path of an image") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        raise InputError(f"{path}: is not a readable image; save it as PNG") from None
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    contrast = np.abs(grey - np.median(edge))
    if contrast.max() < 16:
        raise InputError(f"{path}: shows no ink; give a picture of one character")
    ink = (contrast * (255 / contrast.max())).astype(np.uint8)
    return ink if ink.shape == (SIDE, SIDE) else fit_ink(ink, seen=ink >= 255 * INK)


def fit_ink(ink: NDArray[np.uint8], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Crop ink [H, W] to where it is `seen`, centre it in a square, scale to a glyph [28, 28]."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = cropped.shape
    side = max(height, width)
    border = max(1, round(side * BORDER))
    square = np.zeros((side + 2 * border, side + 2 * border), np.uint8)
    top, left = border + (side - height) // 2, border + (side - width) // 2
    square[top : top + height, left : left + width] = cropped
    small = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small, np.uint8)


def _grey(image: Image.Image) -> NDArray[np.float32]:
    """Return brightness 0..255; deep greys are scaled by their range, since Pillow clips them."""
    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image, np.float32)
        low, high = float(deep.min()), float(deep.max())
        return (deep - low) * (255 / (high - low)) if high > low else np.zeros_like(deep)
    return np.asarray(_on_white(image).convert("L"), np.float32)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency on white paper."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


FROM_PICTURE = Encoder(GLYPH, load_picture)
