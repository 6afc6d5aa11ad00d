"""Secret sharing: `threshold` shares give the secret, fewer reveal nothing of it (Shamir 1979).

    split:    f(x) = secret + c_1 x + ... + c_{t-1} x^{t-1} over GF(p), every c drawn at random
              share i is (i, f(i)), i = 1 .. holders
    combine:  secret = f(0), interpolated through t points (Lagrange)

A. Shamir, "How to share a secret", CACM 22(11), doi 10.1145/359168.359176.
"""

import math
import secrets
from collections.abc import Sequence
from functools import lru_cache
from operator import mul
from typing import NamedTuple

PRIME = 2**256 + 297
"""The first prime above 2**256, so that any 32 bytes are an element of the field."""

SECRET, VALUE = 32, 33
"""Bytes of a secret, and of a share's value."""


class Share(NamedTuple):
    """One point of the polynomial, from 1 on, and its value there, 33 bytes big-endian."""

    point: int
    value: bytes


def split(secret: bytes, threshold: int, holders: int) -> list[Share]:
    """Return one share of a secret of 32 bytes for each holder.

    Raises ValueError where the secret has another length or there are too few holders.
    """
    if len(secret) != SECRET:
        raise ValueError(f"a secret has {SECRET} bytes, not {len(secret)}")
    if not 1 <= threshold <= holders:
        raise ValueError(f"{threshold} of {holders} holders cannot be")
    drawn = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial = [*drawn, int.from_bytes(secret)]
    return [Share(x, _value(polynomial, x).to_bytes(VALUE)) for x in range(1, holders + 1)]


def combine(shares: Sequence[Share]) -> bytes:
    """Return the secret that as many shares as the threshold belong to.

    Fewer shares, or shares of different secrets, give meaningless bytes or raise ValueError. So do
    a point that is below 1 or repeated, and a value of another length.
    """
    if any(len(share.value) != VALUE for share in shares):
        raise ValueError(f"a share's value has {VALUE} bytes")
    weights = _weights(tuple(share.point for share in shares))
    values = (int.from_bytes(share.value) for share in shares)
    secret: int = sum(map(mul, values, weights)) % PRIME
    if secret.bit_length() > 8 * SECRET:
        raise ValueError("the shares are of no secret")
    return secret.to_bytes(SECRET)


def _value(polynomial: Sequence[int], x: int) -> int:
    """Return a polynomial's value, its highest coefficient first (Horner)."""
    value = 0
    for coefficient in polynomial:
        value = value * x + coefficient
    # x is small: one reduction at the end is faster than one at every step.
    return value % PRIME


@lru_cache
def _weights(points: tuple[int, ...]) -> list[int]:
    """Return the weight of the value at each point in the value at 0 (Lagrange)."""
    if min(points, default=0) < 1 or len(set(points)) < len(points):
        raise ValueError("a share's point is below 1, or there twice")
    product = math.prod(points)
    return [
        product * pow(x * math.prod(other - x for other in points if other != x), -1, PRIME)
        for x in points
    ]
