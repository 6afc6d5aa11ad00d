"""What the README says first is true: its figures, and what the demo leaves behind."""

import re
from pathlib import Path

from tests.places import ROOT

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


def test_the_demo_ends_with_a_command_for_the_release_that_it_makes() -> None:
    demo = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert demo is not None
    (made,) = re.findall(r"fedhw train-expert .*--out (\S+)", demo[1])
    (release,) = re.findall(r"fedhw client --release (\S+) --pad", demo[1].splitlines()[-1])
    assert release == made
