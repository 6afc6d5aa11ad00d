"""The figures that the README repeats are those of the results."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {
    "global expert alone": "ge",
    "**local expert and gate**": "moe",
    "fine-tuned head": "head",
    "fine-tuned network": "full",
    "kNN-Per": "knn",
    "the writer's class prior": "prior",
}


def cells(page: Path, first: str) -> list[str]:
    """The cells of the first row of a page's tables that begins so."""
    rows = page.read_text("utf-8").splitlines()
    return next(row for row in rows if row.startswith(f"| {first} |")).strip("| ").split(" | ")


def test_the_table_is_that_of_the_three_seeds() -> None:
    for ours, theirs in NAMES.items():
        _, _, own, everybody = (
            re.sub(r"[* %]", "", cell) for cell in cells(ROOT / "README.md", ours)
        )
        measured = cells(ROOT / "docs" / "results.md", theirs)
        assert own == measured[1].split()[0]
        assert everybody == measured[4].split()[0]
