"""A fleet in virtual time, as a user asks for it."""

import json
from pathlib import Path

from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from tests.command_line import run


def test_simulate_lives_through_the_days_of_a_fleet(
    release_directory: Path, tmp_path: Path
) -> None:
    report, figures = tmp_path / "report", tmp_path / "figures.json"
    save_npz(tmp_path / "all.npz", synthetic_writers(34, 150))
    asked = ("--days", 3, "--epsilon", 2, "--seed", 5, "--json", figures, "--out", report)
    given = ("--release", release_directory, "--data", tmp_path / "all.npz", "--fleet")
    assert run("simulate", *given, *asked) == 0
    assert (report / "index.html").stat().st_size > 10_000
    found = json.loads(figures.read_text())
    assert found == json.loads((report / "summary.json").read_text())
    assert (found["writers"], len(found["days"]), found["seed"]) == (10, 3, 5)
    assert len(found["decisions"]) == 3
