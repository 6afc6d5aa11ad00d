import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.settings import ReportPolicy


@pytest.mark.parametrize("window", [1, 10, 600, 86_400])
@given(now=st.floats(1e9, 4e9), number=st.integers(0, 2**64 - 1))
def test_a_window_is_open_when_it_is_over_and_not_for_long(window, now, number):
    policy = ReportPolicy(window=window)
    newest = int(now) // window - 1
    assert policy.is_open(newest, now)
    assert policy.is_open(newest - 6, now)
    assert not policy.is_open(newest + 2 + 60 // window, now)
    assert not policy.is_open(newest - 8 - 3600 // window, now)
    if policy.is_open(number, now):
        assert now - max(7 * window, 3600) <= (number + 1) * window <= now + 60


def test_the_policy_is_open_until_somebody_was_invited(tmp_path):
    fleet = Fleet(tmp_path / "fleet.db")
    assert fleet.settings.agree() == ReportPolicy()
    assert fleet.settings.agree(window=60, epsilon=3.0).window == 60
    fleet.members.invite("pen")
    assert (
        fleet.settings.agree()
        == fleet.settings.agree(window=60)
        == fleet.policy
        == ReportPolicy(60, 3.0)
    )
    for name, value in (("window", 61), ("epsilon", 2), ("delta", 1e-7), ("minimum_cohort", 3)):
        with pytest.raises(InputError, match=f"{name.replace('_', '-')}: {value:g} is not the"):
            fleet.settings.agree(**{name: value})
    assert fleet.policy == ReportPolicy(60, 3.0)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"window": 0}, "window: 0 is below 1"),
        ({"minimum_cohort": 1}, "minimum-cohort: 1 is below 2"),
        ({"epsilon": 0}, "epsilon: 0 is out of range"),
        ({"epsilon": float("nan")}, "epsilon: nan is out of range"),
        ({"delta": 1.0}, "delta: 1 is out of range"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(tmp_path, given, word):
    fleet = Fleet(tmp_path / "fleet.db")
    with pytest.raises(InputError, match=word):
        fleet.settings.agree(**given)
    with pytest.raises(InputError, match="no coordinator was ever ready"):
        _ = fleet.policy
