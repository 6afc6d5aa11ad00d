import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.improvement.rollout import FLOOR_COHORTS, SHARES, RollOut, draw, share_at


def test_steps_are_nested_and_end_with_everybody() -> None:
    numbers = np.array([draw(f"device-{n}", "v2-0123abcd") for n in range(20_000)])
    reached = [set(np.flatnonzero(numbers < share)) for share in SHARES]
    assert reached[0] < reached[1] < reached[2] == set(range(20_000))
    assert [len(some) / 20_000 for some in reached] == pytest.approx(SHARES, rel=0.2)


def test_another_release_draws_other_devices() -> None:
    first, second = (
        {n for n in range(5000) if draw(f"device-{n}", release) < 0.1} for release in ("a", "b")
    )
    assert len(first & second) / len(first) < 0.3


def share(step: int, devices: int, minimum_cohort: int) -> float:
    return share_at(step, devices=devices, minimum_cohort=minimum_cohort)


@given(st.integers(0, 2), st.integers(0, 100_000), st.integers(2, 1000))
def test_it_reaches_enough_to_be_shown_and_leaves_as_many_or_none(
    step: int, devices: int, cohort: int
) -> None:
    found, fewest = share(step, devices, cohort), FLOOR_COHORTS * cohort
    assert SHARES[step] <= found <= 1
    if found < 1:
        assert found * devices >= fewest - 1e-6
        assert (1 - found) * devices >= fewest


def test_a_small_fleet_begins_with_a_cohort_that_may_be_shown() -> None:
    assert share(0, 50, 10) == 0.4
    assert share(0, 5, 10) == 1.0
    assert share(1, 100_000, 10) == 0.1


def test_it_is_for_those_who_drew_it_and_for_those_who_have_it() -> None:
    reach = RollOut(2, "b", 1, 0.1)
    for name in map(str, range(200)):
        drew = draw(name, "b") < 0.1
        assert reach.version_for(name, "a") == (2 if drew else 1)
        assert reach.version_for(name, None) == (2 if drew else 1)
        assert reach.version_for(name, "b") == 2
