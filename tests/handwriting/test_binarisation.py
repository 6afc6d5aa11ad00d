import numpy as np
import pytest

from fedhw.handwriting.binarisation import (
    THRESHOLD,
    contrast,
    contrast_axis,
    ink_strength,
    strongest,
)
from tests.handwriting.pictures_of_letters import drawn

DARKER = np.full(3, -1 / np.sqrt(3), np.float32)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_the_axis_is_that_of_paper_and_ink() -> None:
    covered = np.asarray(drawn(), float)[..., None] / 255
    yellow_on_white = (255 - (1 - covered) * [0, 15, 195]).astype(np.uint8)
    assert np.abs(contrast_axis(yellow_on_white) @ [0, 15, 195] / np.hypot(15, 195)) > 0.99


@pytest.mark.parametrize("darkest", [1.0, 0.55])
def test_ink_is_what_was_drawn_even_in_the_shade(darkest: float) -> None:
    letter = np.asarray(drawn(paper=235, ink=40), float)
    levels = contrast(grey(letter * np.linspace(1, darkest, 200)), DARKER)
    ink = ink_strength(levels, strongest(levels)) >= THRESHOLD
    assert (ink != (letter < 137)).mean() < 0.01


def test_noise_is_not_ink() -> None:
    noisy = np.random.default_rng(0).normal(128, 10, (100, 100))
    assert strongest(contrast(grey(noisy), DARKER)) == 0
