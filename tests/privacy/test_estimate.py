import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedhw.errors import InputError
from fedhw.privacy.estimate import Estimate, Sums, estimate, noise_error
from fedhw.privacy.mechanism import GRID, GaussianMechanism
from fedhw.privacy.statistics import (
    SHADOW,
    STATISTICS,
    Evaluation,
    Report,
    Tally,
    layout,
    length,
    make_report,
)
from tests.privacy.conftest import CLASSES, tallies

ROWS = {row.name: row for row in STATISTICS}
MECHANISM = GaussianMechanism(2, 1e-6)
CLEAR = GaussianMechanism(1000, 0.1)
PARTS = {"moe_accuracy": ["ge_accuracy", "gain"]}
NEVER = 1e-6

reports = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=27, max_size=27).map(
    lambda steps: Report("pen", 1, 1, "v1", 2, 1e-6, np.array(steps))
)


def summed(windows: list[Tally], mechanism: GaussianMechanism) -> Sums:
    made = (make_report(window, "pen", 1, "v1", mechanism) for window in windows)
    return reduce(add, map(Sums.of, made))


def scalars(sums: Sums) -> dict[str, Estimate]:
    found = estimate(sums, CLASSES, 2)
    assert found is not None
    return {one.name: one for one in found if one.entry is None}


def person(rng: np.random.Generator) -> Tally:
    """A window of somebody: a third are idle, the others differ in what they gain."""
    latencies = tuple(rng.multinomial(50, [0.1] * 10).tolist())
    if rng.random() < 1 / 3:
        return Tally(0, 0, 0, 0, 0, 50, (0,) * CLASSES, latencies)
    corrections = int(rng.integers(5, 60))
    skill = rng.beta(16, 4)
    ge, le, opened = rng.binomial(corrections, [skill, 0.7, 0.4]).tolist()
    right = ge + int(rng.binomial(corrections - ge, 0.3))
    errors = tuple(rng.multinomial(corrections - right, [0.1] * 10).tolist())
    return Tally(corrections, ge, le, right, opened, 50 + corrections, errors, latencies)


@given(st.lists(reports, min_size=1, max_size=6))
def test_sums_are_exact_and_order_does_not_matter(several):
    parts = [Sums.of(report) for report in several]
    whole = reduce(add, parts)
    assert whole == reduce(add, reversed(parts))
    steps = [report.steps.tolist() for report in several]
    assert whole.count == len(several)
    assert whole.totals == tuple(map(sum, zip(*steps, strict=True)))
    squares = [[step * step for step in one] for one in steps]
    assert whole.squares == tuple(map(sum, zip(*squares, strict=True)))
    assert whole.noise == len(several) * math.ceil((1024 * MECHANISM.sigma) ** 2)


@given(reports, st.integers(1, 10**30))
def test_sums_survive_the_disk(report, many):
    one = Sums.of(report)
    sums = Sums(many, many * one.noise, one.totals, tuple(many * s for s in one.squares))
    assert Sums.from_bytes(sums.to_bytes()) == sums


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"7", b"[1,2,[3]]", b"[1,2,[3.5],[4]]", b'[1,"2",[3],[4]]']
)
def test_damaged_sums_are_refused(content):
    with pytest.raises(InputError, match="sums: they are damaged"):
        Sums.from_bytes(content)


def test_sums_of_two_alphabets_do_not_add():
    one, other = (Sums(1, 1, (0,) * n, (0,) * n) for n in (27, 79))
    with pytest.raises(ValueError, match="27 entries and 79"):
        one + other
    with pytest.raises(InputError, match="27 entries do not fit 62 classes"):
        estimate(one, 62, 2)


def test_nothing_is_told_of_fewer_than_the_minimum():
    windows = [person(np.random.default_rng(seed)) for seed in range(5)]
    assert estimate(summed(windows[:4], MECHANISM), CLASSES, 5) is None
    told = estimate(summed(windows, MECHANISM), CLASSES, 5)
    assert told is not None
    assert {one.cohort for one in told} == {5}
    with pytest.raises(InputError, match="minimum_cohort: 1 would reveal one device"):
        estimate(summed(windows, MECHANISM), CLASSES, 1)


def test_every_entry_is_estimated_once():
    told = estimate(summed([Tally.empty(CLASSES)] * 2, MECHANISM), CLASSES, 2)
    assert told is not None
    expected = [
        (row.name, None if row.size == 1 else entry)
        for row in STATISTICS
        for entry in range(CLASSES if row.size is None else row.size)
    ]
    assert [(one.name, one.entry) for one in told] == [*expected, ("moe_accuracy", None)]


@given(tallies(most=500).filter(lambda tally: tally.recognitions >= tally.corrections > 0))
def test_hardly_any_noise_gives_the_raw_figures(tally):
    told = estimate(summed([tally] * 20, CLEAR), CLASSES, 20)
    assert told is not None
    figures = tally.figures()
    if abs(figures["gain"][0]) > 0.5:
        return  # is clipped
    for one in told:
        raw = figures[one.name][one.entry or 0]
        rounding = GRID * sum(ROWS[name].scale for name in PARTS.get(one.name, [one.name]))
        assert abs(one.mean - raw) < 7 * one.standard_error + rounding


@pytest.mark.parametrize("mechanism", [GaussianMechanism(12, 1e-6), GaussianMechanism(60, 1e-6)])
def test_estimates_are_unbiased_and_their_intervals_cover(mechanism):
    rng = np.random.default_rng(5)
    fleets, devices = 250, 150
    people = [person(rng) for _ in range(20_000)]
    figures = [one.figures() for one in people]
    clipped = {row.name: (row.low, row.high) for row in STATISTICS if row.size == 1}
    truth = {
        name: float(np.nanmean([np.clip(figure[name], low, high) for figure in figures]))
        for name, (low, high) in clipped.items()
    }
    truth["moe_accuracy"] = truth["ge_accuracy"] + truth["gain"]
    drawn = (rng.choice(len(people), devices, replace=False) for _ in range(fleets))
    told = [scalars(summed([people[i] for i in fleet], mechanism)) for fleet in drawn]
    for name, value in truth.items():
        ours = [one[name] for one in told]
        means = np.array([one.mean for one in ours])
        # Mean over the fleets against its own spread; a ratio is biased in second order.
        assert abs(means.mean() - value) < 0.4 * means.std(), name
        claimed = np.mean([one.standard_error for one in ours])
        assert 0.75 * means.std() < claimed < 1.45 * means.std(), name
        missed = sum(not low <= value <= high for low, high in (one.interval() for one in ours))
        assert missed <= binom.isf(NEVER, fleets, 0.015), name
        halves = (one.interval(0.5) for one in ours)
        assert 0.33 * fleets < sum(low <= value <= high for low, high in halves) < 0.8 * fleets


def test_idle_devices_do_not_water_down_what_the_others_gain():
    busy = Tally(20, 12, 12, 16, 10, 40, (4, *(0,) * 9), (40, *(0,) * 9))
    told = scalars(summed([busy, Tally.empty(CLASSES)] * 4_000, CLEAR))
    assert told["active"].mean == pytest.approx(0.5, abs=0.02)
    assert told["gain"].mean == pytest.approx(0.2, abs=0.02)
    assert told["ge_accuracy"].mean == pytest.approx(0.6, abs=0.02)
    assert told["moe_accuracy"].mean == pytest.approx(0.8, abs=0.03)
    assert told["samples"].mean == pytest.approx(10, abs=5)


def test_a_fleet_where_nobody_is_active_still_has_estimates():
    told = scalars(summed([Tally.empty(CLASSES)] * 50, MECHANISM))
    assert all(math.isfinite(one.mean) and one.standard_error > 0 for one in told.values())


def test_reports_that_agree_by_chance_are_not_trusted_for_it():
    same = make_report(person(np.random.default_rng(1)), "pen", 1, "v1", MECHANISM)
    told = scalars(reduce(add, [Sums.of(same)] * 3))
    for name in ("gain", "samples", "ge_accuracy"):
        assert told[name].standard_error >= noise_error(name, MECHANISM, 3)


def test_the_noise_of_different_mechanisms_is_counted_each_as_it_is():
    idle = make_report(Tally.empty(CLASSES), "pen", 1, "v1", MECHANISM)
    loud = make_report(Tally.empty(CLASSES), "pen", 1, "v1", GaussianMechanism(0.5, 1e-6))
    sums = Sums.of(idle) + Sums.of(loud)
    expected = (MECHANISM.sigma**2 + GaussianMechanism(0.5, 1e-6).sigma ** 2) / GRID**2
    assert sums.noise == pytest.approx(expected, rel=1e-5)


def test_the_error_among_active_devices_follows_the_delta_method():
    # Half of 1,000 devices are active, and the global expert is always right there: no person
    # differs from another, and all error is noise, of what is divided and of what it is divided by.
    devices, noise, places = 1000, 51, layout(CLASSES)
    totals, squares = [0] * length(CLASSES), [devices * noise**2] * length(CLASSES)
    entry = round(math.sqrt(0.1) / GRID)
    totals[places["ge_accuracy"].start] = devices // 2 * entry
    squares[places["ge_accuracy"].start] += devices // 2 * entry**2
    squares[places["active"].start] += devices * entry**2
    told = scalars(Sums(devices, devices * noise**2, tuple(totals), tuple(squares)))
    assert told["active"].mean == 0.5
    assert told["ge_accuracy"].mean == pytest.approx(1, abs=1e-3)
    each = noise * GRID / (2 * math.sqrt(0.1))
    expected = math.sqrt(each**2 + 0.5**2 * each**2) / math.sqrt(devices) / 0.5
    assert told["ge_accuracy"].standard_error == pytest.approx(expected, rel=0.02)


def test_what_people_add_to_both_parts_of_the_mixture_s_accuracy_may_go_together():
    devices = 400
    good = Tally(10, 6, 6, 8, 5, 10, (2, *(0,) * 9), (0,) * 10)
    poor = Tally(10, 4, 4, 4, 5, 10, (6, *(0,) * 9), (0,) * 10)
    told = scalars(summed([good, poor] * (devices // 2), CLEAR))["moe_accuracy"]
    # 0.8 and 0.4: 0.2 from the mean, the sum of 0.1 and 0.1, and a little noise.
    assert 0.18 < told.standard_error * math.sqrt(devices) < 0.26


def test_a_candidate_is_estimated_by_its_own_table():
    judged = Evaluation(100, 80, 70, 90, 65)
    idle = Evaluation(0, 0, 0, 0, 0)
    made = [make_report(each, "pen", 1, "v2", CLEAR) for each in [judged, idle] * 400]
    told = estimate(Sums.of(*made), 0, 2, SHADOW)
    assert told is not None
    assert [(one.name, one.entry) for one in told] == [(row.name, None) for row in SHADOW.rows]
    means = {one.name: one.mean for one in told}
    for name, mean in {"active": 0.5, "ge_gain": 0.1, "gain": 0.25}.items():
        assert means[name] == pytest.approx(mean, abs=0.02)
        assert noise_error(name, CLEAR, 800, SHADOW) < 0.01
    with pytest.raises(InputError, match="27 entries do not fit"):
        estimate(Sums(2, 1, (0,) * 27, (0,) * 27), 0, 2, SHADOW)


def test_intervals_are_student_s():
    one = Estimate("gain", None, 0.1, 0.02, 11, "")
    low, high = one.interval()
    # Table of Student's t: 3.169 for 99 % and 10 degrees of freedom.
    assert low == pytest.approx(0.1 - 3.169 * 0.02, abs=1e-4)
    assert high == pytest.approx(0.1 + 3.169 * 0.02, abs=1e-4)


def test_the_promised_error_is_what_noise_gives():
    devices = 400
    idle = Tally(1, 1, 1, 1, 1, 1, (0,) * CLASSES, (0,) * 10)
    told = [scalars(summed([idle] * devices, MECHANISM))["samples"] for _ in range(60)]
    spread = np.std([one.mean for one in told])
    promised = noise_error("samples", MECHANISM, devices)
    assert spread == pytest.approx(promised, rel=6 / math.sqrt(2 * len(told)))
    assert promised < np.mean([one.standard_error for one in told]) < 1.1 * promised


def test_sums_are_as_long_as_the_vector():
    assert len(Sums.of(make_report(Tally.empty(62), "p", 1, "v1", MECHANISM)).totals) == length(62)
    assert layout(62)["latency_share"].stop == length(62)
