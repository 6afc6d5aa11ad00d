"""Windows of all kinds: what hypothesis draws for the privacy tests."""

from hypothesis import strategies as st

from fedhw.privacy.statistics import LATENCIES, Tally

CLASSES = 10


@st.composite
def tallies(draw: st.DrawFn, classes: int = CLASSES, most: int = 2000) -> Tally:
    corrections = draw(st.integers(0, most))
    some = st.integers(0, corrections)
    errors = [0] * classes
    left = draw(some)
    right = corrections - left
    while left:
        part = draw(st.integers(1, left))
        errors[draw(st.integers(0, classes - 1))] += part
        left -= part
    return Tally(
        corrections=corrections,
        ge_right=draw(some),
        le_right=draw(some),
        right=right,
        opened=draw(some),
        recognitions=draw(st.integers(0, most)),
        errors=tuple(errors),
        latencies=tuple(draw(st.integers(0, most)) for _ in range(len(LATENCIES) + 1)),
    )
