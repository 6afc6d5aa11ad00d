"""What docs/privacy.md promises is what the code does."""

import pytest

from fedhw.privacy.budget import ROUNDS_A_DAY
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.estimate import noise_error
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon
from fedhw.privacy.statistics import TABLES, Statistic, Table
from tests.places import ROOT

DOCUMENT = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
MECHANISM = GaussianMechanism(2, 1e-6)


def table_row(row: Statistic, table: Table) -> str:
    entries = "one a class" if row.size is None else row.size
    cells = (
        f"`{row.name}`",
        row.meaning,
        row.unit,
        entries,
        f"{row.low:g} to {row.high:g}",
        f"{100 * row.squared_weight:.0f} %",
        f"{noise_error(row.name, MECHANISM, 10_000, table):.3g}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def test_the_document_lists_all_that_is_sent_and_nothing_else():
    for table in TABLES.values():
        assert "".join(table_row(row, table) for row in table.rows) in DOCUMENT
    assert DOCUMENT.count("\n| `") == sum(len(table.rows) for table in TABLES.values())


@pytest.mark.parametrize("devices", [100, 1000, 10_000, 100_000])
def test_the_document_s_errors_of_the_gain_are_right(devices):
    mechanisms = [GaussianMechanism(epsilon, 1e-6) for epsilon in (2, 4, 8)]
    points = [f"{100 * noise_error('gain', one, devices):.1f}" for one in mechanisms]
    assert f"| {devices:,} | {' | '.join(points)} |\n" in DOCUMENT


def test_the_document_s_cost_of_many_reports_is_right():
    costs = [composed_epsilon([MECHANISM.sigma] * n, 1e-6) for n in (1, 2, 7, 30, 365)]
    assert f"| epsilon | {' | '.join(f'{cost:#.3g}' for cost in costs)} |\n" in DOCUMENT


@pytest.mark.parametrize("noise", [2, 4, 8])
def test_the_document_s_cost_of_rounds_is_right(noise):
    costs = [epsilon_of(n / (2 * noise**2), 1e-6) for n in (1, 5, 20, 100)]
    assert f"| noise {noise} | {' | '.join(f'{cost:#.3g}' for cost in costs)} |\n" in DOCUMENT
    assert f"at most {ROUNDS_A_DAY} rounds in 24 hours" in DOCUMENT


def test_the_document_s_price_of_the_first_round_is_right():
    sigmas = [MECHANISM.sigma] * 7
    dearer = composed_epsilon(sigmas, 1e-6, 1e-9) / composed_epsilon(sigmas, 1e-6) - 1
    assert f"by {100 * dearer:.0f} % where there were 7 of them" in DOCUMENT


def test_the_document_s_noise_is_right():
    assert f"its standard deviation is {MECHANISM.sigma:.2f}:" in DOCUMENT
