"""The paper's table, on synthetic writers."""

import subprocess
import sys
from pathlib import Path

from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from tests.places import ROOT

TEN_USERS = ROOT / "benchmarks" / "ten_users.py"


def test_ten_users_have_a_row_each_and_their_mean(release_directory: Path, tmp_path: Path) -> None:
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2012), 124))
    ran = subprocess.run(
        [sys.executable, TEN_USERS, "--release", release_directory, "--data", "writers.npz"],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = [line.strip("| ").split(" | ") for line in ran.stdout.splitlines() if line[0:1] == "|"]
    assert [row[0] for row in rows[2:]] == [*map(str, range(1, 11)), "mean"]
    before, after = (float(rows[-1][i]) for i in (-4, -3))
    assert 0 < before < after < 100
