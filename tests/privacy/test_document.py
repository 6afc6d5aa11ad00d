"""What docs/privacy.md promises is what the code does."""

from pathlib import Path

import pytest

from fedhw.privacy.estimate import noise_error
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon
from fedhw.privacy.statistics import STATISTICS, Statistic

DOCUMENT = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
MECHANISM = GaussianMechanism(2, 1e-6)


def table_row(row: Statistic) -> str:
    entries = "one a class" if row.size is None else row.size
    cells = (
        f"`{row.name}`",
        row.meaning,
        row.unit,
        entries,
        f"{row.low:g} to {row.high:g}",
        f"{100 * row.weight**2:.0f} %",
        f"{noise_error(row.name, MECHANISM, 10_000):.3g}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def test_the_document_lists_all_that_is_sent_and_nothing_else():
    for row in STATISTICS:
        assert table_row(row) in DOCUMENT
    assert DOCUMENT.count("\n| `") == len(STATISTICS)


@pytest.mark.parametrize("devices", [100, 1000, 10_000, 100_000])
def test_the_document_s_errors_of_the_gain_are_right(devices):
    mechanisms = [GaussianMechanism(epsilon, 1e-6) for epsilon in (2, 4, 8)]
    points = [f"{100 * noise_error('gain', one, devices):.1f}" for one in mechanisms]
    assert f"| {devices:,} | {' | '.join(points)} |\n" in DOCUMENT


def test_the_document_s_cost_of_many_reports_is_right():
    costs = [composed_epsilon([MECHANISM.sigma] * n, 1e-6) for n in (1, 2, 7, 30, 365)]
    assert f"| epsilon | {' | '.join(f'{cost:#.3g}' for cost in costs)} |\n" in DOCUMENT


def test_the_document_s_noise_is_right():
    assert f"its standard deviation is {MECHANISM.sigma:.2f}:" in DOCUMENT
