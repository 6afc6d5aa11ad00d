"""Benchmarks print Markdown, which a person can read and `make bench` puts into docs/results.md."""

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
