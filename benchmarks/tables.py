"""Benchmarks print Markdown, which a person can read and `make bench` puts into docs/results.md."""

import statistics
from collections.abc import Iterable, Sequence


def show(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Print a table and an empty line.

    >>> show(["method", "gain"], [["moe", "+8.9"]])
    | method | gain |
    | --- | --- |
    | moe | +8.9 |
    <BLANKLINE>
    """
    for row in (headings, ["---"] * len(headings), *rows):
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)


def spread(shares: Sequence[float], sign: str = "", digits: int = 1) -> str:
    """Mean and standard deviation of shares in percent, or of their differences in points.

    >>> spread([0.088, 0.092, 0.087], "+")
    '+8.9 ± 0.3'
    >>> spread([0.5])
    '50.0'
    """
    mean = f"{100 * statistics.mean(shares):{sign}.{digits}f}"
    if len(shares) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(shares):.{digits}f}"
