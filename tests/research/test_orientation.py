from dataclasses import replace

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.observation import Labels
from fedhw.release.release import Release
from fedhw.research.orientation import warn_if_inverted, warn_if_turned

WRITERS = synthetic_writers(range(900, 903), 62)


def turned(way: str) -> WriterSet:
    images = WRITERS.observations
    other = {
        "inverted": 255 - images,
        "transposed": images.swapaxes(1, 2),
        "upside down": images[:, ::-1],
        "mirrored": images[:, :, ::-1],
        "inverted and transposed": 255 - images.swapaxes(1, 2),
    }[way]
    return replace(WRITERS, observations=np.ascontiguousarray(other))


@pytest.mark.parametrize(
    "way", ["inverted", "transposed", "upside down", "mirrored", "inverted and transposed"]
)
def test_an_expert_tells_how_data_are_turned(way: str, release: Release) -> None:
    said = warn_if_turned(release.expert, turned(way))
    assert said is not None
    assert said.endswith(f"% of them {way}; give them that way")


def test_data_of_the_right_kind_raise_no_doubt(release: Release) -> None:
    assert warn_if_turned(release.expert, WRITERS) is None
    assert warn_if_inverted(WRITERS) is None


def test_pictures_on_white_paper_are_told_without_an_expert() -> None:
    said = warn_if_inverted(turned("inverted"))
    assert said is not None
    assert "the edges of most observations are 255, while those of pen strokes are 0" in said


def test_what_is_no_picture_of_pen_strokes_raises_no_doubt() -> None:
    for shape, dtype in (((4,), np.uint8), ((3, 5), np.uint8), ((28, 28), np.float32)):
        some = np.ones((2, *shape), dtype)
        assert (
            warn_if_inverted(WriterSet.of(some, [0, 1], [0, 0], ["a"], Labels(("x", "y")))) is None
        )
