import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.synthetic import synthetic_writers


def test_the_same_seed_gives_the_same_writers():
    first, again = (synthetic_writers(2, characters=70, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.observations, again.observations)
    np.testing.assert_array_equal(first.labels, again.labels)
    other = synthetic_writers(2, characters=70, seed=4)
    assert (first.observations != other.observations).any()


def test_a_writer_is_the_same_in_any_company():
    crowd = synthetic_writers(6, characters=62, seed=9)
    chosen = synthetic_writers([4, 1], characters=62, seed=9)
    assert chosen.names == ("synthetic-9-4", "synthetic-9-1")
    for position, index in enumerate([4, 1]):
        np.testing.assert_array_equal(
            chosen.observations[chosen.rows_of(position)], crowd.observations[crowd.rows_of(index)]
        )
        np.testing.assert_array_equal(
            chosen.labels[chosen.rows_of(position)], crowd.labels[crowd.rows_of(index)]
        )


@pytest.mark.parametrize("characters", [1, 61, 62, 150])
def test_every_writer_writes_the_classes_evenly(characters):
    written = synthetic_writers(3, characters=characters)
    assert written.counts().tolist() == [characters] * 3
    for writer in range(3):
        times = np.bincount(written.labels[written.rows_of(writer)], minlength=len(BYCLASS))
        assert times.max() - times.min() <= 1


def test_every_writer_has_an_order_of_their_own():
    written = synthetic_writers(2, characters=62)
    first, second = (written.labels[written.rows_of(writer)].tolist() for writer in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(62))


def test_every_glyph_is_legible_ink_on_clean_paper():
    images = synthetic_writers(20, characters=62).observations
    ink = images.mean(axis=(1, 2)) / 255
    assert ink.min() > 0.04
    assert ink.max() < 0.6
    assert images[:, [0, -1], :].max() == 0
    assert images[:, :, [0, -1]].max() == 0


def test_a_writer_resembles_themselves_more_than_others():
    written = synthetic_writers(12, characters=124, seed=1)
    rows = np.stack([written.rows_of(writer) for writer in range(12)])
    by_class = np.stack(
        [row[np.argsort(written.labels[row], kind="stable")] for row in rows]
    )  # [12, 124]: two samples of each class side by side
    pixels = written.observations[by_class].astype(float).reshape(12, len(BYCLASS), 2, -1)
    first, second = pixels[:, :, 0], pixels[:, :, 1]
    distance = np.abs(first[:, None] - second[None]).mean(axis=3)  # [12, 12, 62]
    own = np.diagonal(distance).mean()
    others = distance[~np.eye(12, dtype=bool)].mean()
    assert own < 0.75 * others
    # All classes taken together, a page of writing names its writer.
    assert (distance.mean(axis=2).argmin(axis=1) == np.arange(12)).all()


def test_drift_moves_the_style_along_the_order():
    def change(drift):
        """Distance between first and last sample of a class, over that of two early samples."""
        written = synthetic_writers(8, characters=62 * 6, seed=2, drift=drift)
        pixels = np.empty((8, 6, len(BYCLASS), 28 * 28))
        for writer in range(8):
            pages = written.rows_of(writer).reshape(6, len(BYCLASS))
            for number, page in enumerate(pages):
                page = page[np.argsort(written.labels[page])]
                pixels[writer, number] = written.observations[page].reshape(len(BYCLASS), -1)
        early = np.abs(pixels[:, 0] - pixels[:, 1]).mean()
        return np.abs(pixels[:, 0] - pixels[:, 5]).mean() / early

    assert change(0) == pytest.approx(1, abs=0.05)
    assert 1.1 < change(0.5) < change(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"writers": 0}, "writers: 0 names no writer"),
        ({"writers": []}, "writers"),
        ({"writers": [2, -1]}, "writers"),
        ({"characters": 0}, "characters: 0 is too few"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"drift": 1.5}, "drift: 1.5 is not a fraction"),
        ({"drift": float("nan")}, "drift: nan is not a fraction"),
    ],
)
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        synthetic_writers(**({"writers": 1, "characters": 5} | arguments))


def test_text_has_the_letters_of_english() -> None:
    written = synthetic_writers(20, 1000, seed=1, text=True)
    share = np.bincount(written.labels, minlength=62) / len(written)
    letters = dict(zip(BYCLASS, share, strict=True))
    assert letters["e"] == pytest.approx(0.12, abs=0.01)
    assert letters["z"] < 0.002
    assert sum(share[:36]) == pytest.approx(0.06, abs=0.01)
    assert (share > 0).all()
