from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet, stratified_split
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.observation import Labels

label_arrays = st.integers(0, 61).flatmap(
    lambda top: arrays(np.uint8, st.integers(2, 120), elements=st.integers(0, top))
)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def two() -> WriterSet:
    """Ann wrote rows 0, 2 and 3, the last one first; Bo wrote row 1."""
    glyphs = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.uint8)
    return WriterSet.of(
        glyphs,
        labels=[7, 61, 7, 0],
        writer=[0, 1, 0, 0],
        names=["ann", "bo"],
        classes=BYCLASS,
        order=[5, 1, 9, 2],
    )


def split(labels: NDArray[np.uint8], seed: int, shots: int | None = None):
    return stratified_split(labels, np.random.default_rng(seed), shots)


def test_a_writer_is_read_in_the_order_of_writing(two):
    assert two.rows_of(0).tolist() == [3, 0, 2]
    assert two.counts().tolist() == [3, 1]
    assert [two.classes_of(writer) for writer in (0, 1)] == [2, 1]
    assert len(two) == 4


def test_ties_in_the_order_keep_the_order_of_the_rows(two):
    tied = replace(two, order=np.zeros(4, np.uint32))

    assert tied.rows_of(0).tolist() == [0, 2, 3]


def test_taken_rows_keep_their_writer_and_classes(two):
    words = Labels((*two.classes, "question mark"))
    taken = replace(two, classes=words).take(np.array([3, 1]))

    assert taken.observations.tolist() == two.observations[[3, 1]].tolist()
    assert taken.labels.tolist() == [0, 61]
    assert taken.writer.tolist() == [0, 1]
    assert taken.order.tolist() == [2, 1]
    assert taken.names == ("ann", "bo")
    assert taken.classes == words


def test_order_defaults_to_the_order_of_the_rows():
    glyphs = np.zeros((3, 28, 28), np.uint8)

    assert WriterSet.of(glyphs, [0, 0, 0], [0, 0, 0], ["ann"], BYCLASS).order.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "times",
    [
        [1_714_000_000_300, 1_714_000_000_100, 1_714_000_000_300, 1_714_000_000_000],
        [0.3, -0.1, 0.3, -0.2],
        [-1, -3, -1, -5],
        np.array(["2024-05-02", "2024-05-01", "2024-05-02", "1969-05-01"], "datetime64[D]"),
        ["2024-05-01T12:30", "2024-05-01", "2024-05-01T12:30", "2023"],
    ],
)
def test_an_order_may_be_times(times):
    glyphs = np.zeros((4, 28, 28), np.uint8)

    writers = WriterSet.of(glyphs, [0] * 4, [0] * 4, ["ann"], BYCLASS, order=times)

    assert writers.order.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0.5, np.nan], "order: some values are missing"),
        (np.array(["2024-05-01", "NaT"], "datetime64[s]"), "order: some values are missing"),
        (["first", "second"], "order: <U6 is no order; give whole numbers, times or dates"),
    ],
)
def test_what_is_no_order_is_told(order, message):
    with pytest.raises(InputError, match=f"^{message}"):
        WriterSet.of(np.zeros((2, 28, 28), np.uint8), [0, 0], [0, 0], ["ann"], BYCLASS, order)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("observations", np.zeros((4, 28, 28)), "observation: dtype float64 is not supported"),
        (
            "observations",
            np.zeros((4, 2, 2, 2, 2, 2), np.int8),
            "observation: shape .* is not 1 to",
        ),
        ("observations", np.zeros((0, 28, 28), np.uint8), "observations: there are none"),
        ("labels", np.zeros(3, np.int64), r"labels: shape \(3,\) does not fit 4 observations"),
        ("labels", np.zeros((4, 1), np.int64), r"labels: shape \(4, 1\) does not fit 4"),
        ("labels", np.zeros(4, np.float64), "labels: dtype float64 is not a whole number"),
        ("labels", np.full(4, 62), "labels: value 62 is outside the 62 classes"),
        ("labels", np.full(4, -1), "labels: value -1 is outside the 62 classes"),
        ("writer", np.full(4, 2, np.uint16), "writer: value 2 is outside the 2 writer names"),
        ("order", np.zeros(4, np.float64), "order: dtype float64 is not a whole number"),
        ("names", (), "names: there are none"),
        ("names", ("ann", "bo", "ann"), r"names\[2\]: 'ann' is also names\[0\]; give each writer"),
        ("names", ("ann", ""), r"names\[1\]: '' is not a text of 1 to 256 characters"),
        ("names", ("ann", "b\ud800"), r"names\[1\]: 'b\\ud800' has a lone surrogate"),
        ("names", ("ann", "b\x1b[2J"), r"names\[1\]: .* has a control character"),
    ],
)
def test_a_wrong_field_is_named(two, field, value, message):
    with pytest.raises(InputError, match=f"^{message}"):
        replace(two, **{field: value})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0], "labels: dtype float64 is not a whole number"),
        ([-1, 0], r"labels: values -1\.\.0 do not fit 0\.\."),
    ],
)
def test_plain_values_are_checked_before_they_are_narrowed(labels, message):
    with pytest.raises(InputError, match=f"^{message}"):
        WriterSet.of(np.zeros((2, 28, 28), np.uint8), labels, [0, 0], ["ann"], BYCLASS)


@given(label_arrays, seeds)
def test_stratified_halves_cover_every_row_once(labels, seed):
    learn, test = split(labels, seed)

    assert sorted([*learn, *test]) == list(range(len(labels)))
    assert len(learn) == len(labels) // 2


@given(label_arrays, seeds)
def test_stratified_halves_halve_every_class(labels, seed):
    learn, test = split(labels, seed)

    difference = np.bincount(labels[learn], minlength=62) - np.bincount(labels[test], minlength=62)
    assert np.abs(difference).max() <= 1


@given(label_arrays, seeds, st.integers(0, 70))
def test_shots_learn_from_so_many_rows_and_leave_the_test_half_alone(labels, seed, shots):
    learn, test = split(labels, seed, shots)

    assert len(learn) == min(shots, len(labels) // 2)
    assert test.tolist() == split(labels, seed)[1].tolist()


@given(label_arrays, seeds, st.integers(0, 60), st.integers(0, 60))
def test_fewer_shots_are_some_of_more(labels, seed, one, other):
    fewer, more = (split(labels, seed, shots)[0] for shots in sorted((one, other)))

    assert set(fewer) <= set(more)


@given(label_arrays, seeds, st.integers(1, 60))
def test_shots_take_one_share_of_every_class_to_within_one(labels, seed, shots):
    learnable = np.bincount(labels[split(labels, seed)[0]], minlength=62)
    taken = np.bincount(labels[split(labels, seed, shots)[0]], minlength=62)[learnable > 0]
    learnable = learnable[learnable > 0]

    # Some share s has |taken - s * learnable| <= 1 for every class.
    assert ((taken - 1) / learnable).max() <= ((taken + 1) / learnable).min()


def test_shots_take_two_classes_in_proportion():
    labels = np.repeat(np.array([0, 1], np.uint8), [80, 40])

    for seed in range(50):
        assert 7 <= (labels[split(labels, seed, 12)[0]] == 0).sum() <= 9


def test_the_odd_row_of_a_class_goes_to_either_side():
    labels = np.array([4, 4, 4, 9], np.uint8)

    learnt = [int((labels[split(labels, seed)[0]] == 4).sum()) for seed in range(400)]

    assert set(learnt) == {1, 2}
    assert 160 <= learnt.count(2) <= 240


def test_every_row_is_as_likely_to_be_learnt():
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 4], np.uint8)

    learnt = np.bincount(np.concatenate([split(labels, seed, 2)[0] for seed in range(2000)]))

    # 500 expected of 2000, standard deviation about 20.
    assert (np.abs(learnt - 500) < 100).all()


def test_a_seed_repeats_its_split_and_another_does_not():
    labels = np.zeros(100, np.uint8)

    assert split(labels, 1)[0].tolist() == split(labels, 1)[0].tolist()
    assert split(labels, 1)[0].tolist() != split(labels, 2)[0].tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_cannot_be_split(n):
    few = np.zeros(n, np.uint8)
    with pytest.raises(InputError, match=f"^writer: {n} characters cannot be split"):
        split(few, 0)


def test_negative_shots_are_refused():
    rows = np.zeros(4, np.uint8)
    with pytest.raises(InputError, match=r"^shots: -1 is negative"):
        split(rows, 0, -1)
