import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.privacy.secret_sharing import PRIME, SECRET, VALUE, Share, combine, split

SECRETS = st.binary(min_size=SECRET, max_size=SECRET)


@given(SECRETS, st.integers(1, 12), st.integers(0, 8), st.randoms())
def test_any_shares_that_are_enough_give_the_secret(secret, threshold, more, random):
    shares = split(secret, threshold, threshold + more)
    assert [share.point for share in shares] == list(range(1, threshold + more + 1))
    assert {len(share.value) for share in shares} == {VALUE}
    assert combine(random.sample(shares, threshold)) == secret
    assert combine(shares) == secret


@given(SECRETS, SECRETS)
def test_one_share_too_few_fits_every_secret(secret, other):
    *few, _ = split(secret, 3, 3)
    points = {0: int.from_bytes(other), **{x: int.from_bytes(value) for x, value in few}}
    third = Share(3, interpolated(points, 3).to_bytes(VALUE))
    assert combine([*few, third]) == other


def interpolated(points, at):
    total = 0
    for x, value in points.items():
        for other in points.keys() - {x}:
            value = value * (at - other) * pow(x - other, -1, PRIME)
        total += value
    return total % PRIME


@pytest.mark.parametrize("secret", [bytes(SECRET), b"\xff" * SECRET])
def test_the_same_secret_is_never_shared_alike(secret):
    shares = [share.value for _ in range(20) for share in split(secret, 40, 60)]
    assert len(set(shares)) == len(shares)
    assert combine(split(secret, 40, 60)[20:]) == secret


def test_the_modulus_is_a_prime_that_every_secret_is_below():
    assert PRIME > 2**256
    # Miller and Rabin.
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd << two, PRIME) for two in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


@pytest.mark.parametrize(("threshold", "holders"), [(0, 3), (4, 3), (1, 0)])
def test_a_threshold_that_nobody_meets_is_refused(threshold, holders):
    with pytest.raises(ValueError, match="cannot be"):
        split(bytes(SECRET), threshold, holders)


def test_what_is_no_secret_and_no_share_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        split(bytes(31), 2, 3)
    one, two, three = split(bytes(SECRET), 2, 3)
    for shares, told in (
        ([one, one], "there twice"),
        ([one, two._replace(point=0)], "below 1"),
        ([one, three._replace(value=three.value[1:])], "has 33 bytes"),
        ([Share(1, (2**256).to_bytes(VALUE))], "of no secret"),
    ):
        with pytest.raises(ValueError, match=told):
            combine(shares)
