import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.privacy.mechanism import GRID, GaussianMechanism, on_grid
from fedhw.privacy.statistics import (
    SHADOW,
    STATISTICS,
    TABLES,
    Evaluation,
    Tally,
    check_report,
    layout,
    length,
    make_report,
    vector,
)
from tests.privacy.conftest import CLASSES, tallies

MECHANISM = GaussianMechanism(2, 1e-6)

WINDOW = Tally(
    corrections=20,
    ge_right=14,
    le_right=12,
    right=17,
    opened=5,
    recognitions=80,
    errors=(1, 2, 0, 0, 0, 0, 0, 0, 0, 0),
    latencies=(0, 0, 20, 60, 0, 0, 0, 0, 0, 0),
)


def report(tally=WINDOW, mechanism=MECHANISM):
    return make_report(tally, "pen", 20_000, "v1-0123abcd", mechanism)


def test_the_tables_are_what_their_schemas_say():
    # What is sent may not change unnoticed: a change here is a new schema.
    said = {
        schema: [
            (row.name, row.size, row.low, row.high, round(row.squared_weight, 9)) for row in rows
        ]
        for schema, rows in ((table.schema, table.rows) for table in TABLES.values())
    }
    assert said.keys() == {1, 2}
    assert said[2] == [
        ("active", 1, 0, 1, 0.1),
        ("ge_gain", 1, -0.5, 0.5, 0.45),
        ("gain", 1, -0.5, 0.5, 0.45),
    ]
    assert said[1] == [
        ("samples", 1, 0, 500, 0.03),
        ("active", 1, 0, 1, 0.1),
        ("ge_accuracy", 1, 0, 1, 0.1),
        ("le_accuracy", 1, 0, 1, 0.04),
        ("gain", 1, -0.5, 0.5, 0.6),
        ("gate_open", 1, 0, 1, 0.04),
        ("correction_rate", 1, 0, 1, 0.03),
        ("error_share", None, 0, 1, 0.03),
        ("latency_share", 10, 0, 1, 0.03),
    ]


@pytest.mark.parametrize("table", TABLES.values())
def test_the_squares_of_the_weights_fill_the_ball(table):
    assert math.fsum(row.squared_weight for row in table.rows) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("classes", [10, 62])
def test_the_layout_covers_the_vector_in_the_order_of_the_table(classes):
    places = layout(classes)
    assert list(places) == [row.name for row in STATISTICS]
    entries = [entry for place in places.values() for entry in range(place.start, place.stop)]
    assert entries == list(range(length(classes)))
    assert length(classes) == 7 + classes + 10


def test_a_window_becomes_its_figures():
    figures = {name: figure.tolist() for name, figure in WINDOW.figures().items()}
    assert figures["samples"] == [20]
    assert figures["active"] == [1]
    assert figures["ge_accuracy"] == [0.7]
    assert figures["le_accuracy"] == [0.6]
    assert figures["moe_accuracy"] == [0.85]
    assert figures["gain"] == [0.15]
    assert figures["gate_open"] == [0.25]
    assert figures["correction_rate"] == [0.25]
    assert figures["error_share"] == [0.05, 0.1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert figures["latency_share"] == [0, 0, 0.25, 0.75, 0, 0, 0, 0, 0, 0]


def test_figures_are_mapped_and_weighed():
    entries = vector(WINDOW)
    places = layout(CLASSES)
    assert entries[places["gain"]] == pytest.approx(math.sqrt(0.6) * 0.15 / 0.5)
    assert entries[places["ge_accuracy"]] == pytest.approx(math.sqrt(0.1) * 0.4)
    assert entries[places["samples"]] == pytest.approx(math.sqrt(0.03) * (20 / 250 - 1))
    assert entries[places["error_share"]][1] == pytest.approx(math.sqrt(0.03) * 0.1)


def test_what_is_out_of_range_is_clipped():
    wild = Tally(900, 900, 0, 0, 0, 3, (900, *(0,) * 9), (0,) * 10)
    places = layout(CLASSES)
    entries = vector(wild)
    assert entries[places["samples"]] == pytest.approx(math.sqrt(0.03))
    assert entries[places["gain"]] == pytest.approx(-math.sqrt(0.6))
    assert entries[places["correction_rate"]] == pytest.approx(math.sqrt(0.03))


def test_an_idle_window_says_that_it_is_idle_and_is_in_the_middle_otherwise():
    places = layout(CLASSES)
    entries = vector(Tally.empty(CLASSES))
    assert entries[places["active"]] == pytest.approx(-math.sqrt(0.1))
    for row in STATISTICS:
        if row.of_active or row.size != 1:
            assert not entries[places[row.name]].any()


@given(tallies())
def test_any_window_lies_in_the_ball_before_it_is_clipped(tally):
    entries = vector(tally)
    assert entries.shape == (length(CLASSES),)
    assert np.linalg.norm(entries) <= 1 + 1e-12
    assert np.abs(on_grid(entries) * GRID - entries).max() < GRID


@given(tallies(), tallies())
def test_windows_add(one, other):
    both = one + other
    assert both.corrections == one.corrections + other.corrections
    assert both.errors == tuple(map(sum, zip(one.errors, other.errors, strict=True)))
    assert one + Tally.empty(CLASSES) == one
    assert both == other + one


def test_windows_of_two_alphabets_do_not_add():
    with pytest.raises(ValueError, match="10 classes and 62"):
        WINDOW + Tally.empty(62)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrections": -1}, "corrections: -1 is below zero"),
        ({"recognitions": -1}, "recognitions: -1 is below zero"),
        ({"ge_right": 21}, "ge_right: 21 is not among 20 corrections"),
        ({"le_right": -1}, "le_right: -1 is not among"),
        ({"right": 21}, "right: 21 is not among"),
        ({"opened": 21}, "opened: 21 is not among"),
        ({"right": 16}, "errors: they do not sum to the 4 wrong ones"),
        ({"errors": (4, -1, *(0,) * 8)}, "errors: they do not sum"),
        ({"latencies": (0,) * 9}, "latencies: they are not 10 counts"),
        ({"latencies": (-1, *(0,) * 9)}, "latencies: they are not 10 counts"),
    ],
)
def test_impossible_counts_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(WINDOW, **change)


@given(tallies(), st.sampled_from([0.001, 0.5, 2, 8, 1000]))
def test_what_a_device_makes_a_server_takes(tally, epsilon):
    made = report(tally, GaussianMechanism(epsilon, 1e-6))
    check_report(made, CLASSES)
    assert (made.device, made.window, made.release) == ("pen", 20_000, "v1-0123abcd")
    assert (made.schema, made.epsilon, made.delta) == (1, epsilon, 1e-6)
    assert made.about == 20_000


def test_two_reports_of_one_window_differ():
    assert (report().steps != report().steps).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema: 3 is not 1 or 2; update the device"),
        ({"schema": 2}, r"steps: int64 \[27\] is not int \[3\]; .* of table 2"),
        ({"window": -1}, "window: -1 is before 1970"),
        ({"epsilon": math.nan}, "epsilon: nan is out of range"),
        ({"epsilon": 0.0}, "epsilon: 0 is out of range"),
        ({"delta": math.inf}, "delta: inf is out of range"),
        ({"steps": np.zeros(26, np.int64)}, r"steps: int64 \[26\] is not int \[27\]"),
        ({"steps": np.zeros((27, 1), np.int64)}, r"steps: int64 \[27, 1\] is not int"),
        ({"steps": np.zeros(27)}, r"steps: float64 \[27\] is not int \[27\]"),
        ({"steps": np.full(27, 10**6)}, "steps: 1000000 is beyond 467"),
        ({"steps": np.full(27, np.iinfo(np.int64).min)}, "steps: -9223372036854775808 is beyond"),
    ],
)
def test_what_no_device_makes_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_report(dataclasses.replace(report(), **change), CLASSES)


def test_the_last_step_that_noise_may_reach_is_taken():
    largest = math.ceil(1024 * (1 + 10 * MECHANISM.sigma))
    for edge in (largest, -largest):
        check_report(dataclasses.replace(report(), steps=np.full(27, edge)), CLASSES)
        beyond = dataclasses.replace(report(), steps=np.full(27, edge + np.sign(edge)))
        with pytest.raises(InputError, match="beyond"):
            check_report(beyond, CLASSES)


JUDGED = Evaluation(
    held_back=200, candidate_ge_right=180, ge_right=170, candidate_right=150, right=182
)

evaluations = st.integers(0, 2000).flatmap(
    lambda held_back: st.builds(Evaluation, st.just(held_back), *(st.integers(0, held_back),) * 4)
)


def test_an_evaluation_becomes_its_figures_and_entries():
    figures = {name: figure.tolist() for name, figure in JUDGED.figures().items()}
    assert figures == {"active": [1], "ge_gain": [0.05], "gain": [-0.16]}
    expected = [math.sqrt(0.1), math.sqrt(0.45) * 0.1, math.sqrt(0.45) * -0.32]
    assert vector(JUDGED) == pytest.approx(expected)


def test_who_has_nothing_to_judge_by_says_so_and_nothing_else():
    assert vector(Evaluation(0, 0, 0, 0, 0)) == pytest.approx([-math.sqrt(0.1), 0, 0])


@given(evaluations)
def test_what_a_device_makes_of_a_candidate_a_server_takes(evaluation):
    assert np.linalg.norm(vector(evaluation)) <= 1 + 1e-12
    made = make_report(evaluation, "pen", 20_000, "v2-0123abcd", MECHANISM)
    check_report(made, CLASSES)
    assert (made.schema, made.about) == (SHADOW.schema, "v2-0123abcd")
    assert len(made.steps) == length(CLASSES, SHADOW) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ge_right": 201}, "ge_right: 201 is not among 200 corrections"),
        ({"candidate_ge_right": -1}, "candidate_ge_right: -1 is not among"),
        ({"held_back": -1}, "held_back: -1 is below zero"),
        ({"candidate_right": 201}, "candidate_right: 201 is not among 200"),
        ({"right": -1}, "right: -1 is not among 200"),
    ],
)
def test_impossible_evaluations_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(JUDGED, **change)
