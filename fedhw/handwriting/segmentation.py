"""Segmentation: where on a page a character is, and which pixels are its ink."""

from math import ceil

import numpy as np
from PIL import Image

from fedhw.handwriting.binarisation import (
    THRESHOLD,
    Floats,
    contrast,
    contrast_axis,
    ink_strength,
    strongest,
)
from fedhw.handwriting.components import Mask, bounding_box, of_character

_PAGE_PIXELS = 512
"""The longer side, at most, of a page on which a character is looked for."""

_CHARACTER_PIXELS = 128
"""About the longer side of the character in the answer."""

_MARGIN = 0.15  # around a character, of its longer side
_RIM = 1 / 16  # of the sides of a page
_MOST_INK = 0.6  # of a page and of its rim


def character_on(page: Image.Image) -> Mask:
    """Return the ink of the one character on a page, in RGB; all False for an empty page."""
    small = reduced(page, _PAGE_PIXELS)
    pixels = np.asarray(small)
    axis = contrast_axis(pixels)
    either = [(contrast(pixels, direction), direction) for direction in (axis, -axis)]
    most = max(strongest(levels) for levels, _ in either)
    if most == 0:
        return np.zeros(pixels.shape[:2], bool)
    strengths = [(ink_strength(levels, most), direction) for levels, direction in either]
    found = [(of_character(one >= THRESHOLD), one, direction) for one, direction in strengths]
    ink, strength, direction = max(found, key=lambda one: _likeness(one[0]))
    if not ink.any():
        return ink
    if small.size != page.size and max(bounding_box(ink)[2:]) < _CHARACTER_PIXELS:
        ink, strength = _closer(page, ink, direction)
    return of_character(_enlarged(strength, _widened(ink)))


def reduced(image: Image.Image, longer_side: int) -> Image.Image:
    """Reduce a picture by a whole number until its longer side is at most this."""
    return image.reduce(ceil(max(image.size) / longer_side))


def _likeness(ink: Mask) -> tuple[bool, int]:
    """How much like a character this is, when either what is dark or what is light is ink.

    Most of a page, or of its rim, is paper; and a character encloses its counters.
    """
    down, right = (ceil(side * _RIM) for side in ink.shape)
    inside = ink[down:-down, right:-right]
    rim_share = (ink.sum() - inside.sum()) / (ink.size - inside.size)
    return bool((ink.mean() + rim_share) / 2 < _MOST_INK), sum(bounding_box(ink)[2:])


def _closer(page: Image.Image, ink: Mask, direction: Floats) -> tuple[Mask, Floats]:
    """Look again at the part of a page around the ink that was found on the reduced page.

    Return where ink may be, and its strength.
    """
    top, left, height, width = bounding_box(ink)
    half = (0.5 + _MARGIN) * max(height, width) + 2
    x, y = (max(0, round(middle - half)) for middle in (left + width / 2, top + height / 2))
    part = ink[y:, x:][: ceil(2 * half), : ceil(2 * half)]
    scale = max(page.size) / max(ink.shape)
    corners = (x, y, x + part.shape[1], y + part.shape[0])
    box = [min(round(scale * at), end) for at, end in zip(corners, page.size * 2, strict=True)]
    near = reduced(page.crop((box[0], box[1], box[2], box[3])), _PAGE_PIXELS)
    levels = contrast(np.asarray(near), direction)
    return np.asarray(Image.fromarray(part).resize(near.size)), ink_strength(levels, levels.max())


def _enlarged(strength: Floats, allowed: Mask) -> Mask:
    """The ink among what is allowed, in the size of the answer."""
    top, left, height, width = bounding_box(allowed)
    shown = np.s_[top : top + height, left : left + width]
    scale = _CHARACTER_PIXELS / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.where(allowed, strength, 0)[shown].astype(np.float32))
    larger = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(larger >= THRESHOLD)


def _widened(ink: Mask) -> Mask:
    """The ink and the pixels beside it."""
    for _ in range(2):
        padded = np.pad(ink.T, ((0, 0), (1, 1)))
        ink = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return ink
