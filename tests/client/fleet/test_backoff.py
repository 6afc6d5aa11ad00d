from hypothesis import given
from hypothesis import strategies as st

from fedhw_client.fleet.backoff import Backoff


@given(st.floats(0.1, 5), st.floats(1, 200), st.integers(1, 20))
def test_pauses_double_up_to_the_longest(first, times, tries):
    longest = first * times
    backoff = Backoff(longest, first)
    for _ in range(2):  # and after success they are short again
        for number in range(tries):
            full = min(first * 2**number, longest)
            assert full / 2 <= backoff.next() <= full
        backoff.reset()


def test_devices_do_not_march():
    assert len({Backoff(longest=60.0).next() for _ in range(20)}) > 10
