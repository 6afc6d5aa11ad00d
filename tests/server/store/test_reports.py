import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.privacy.estimate import Sums
from fedhw.privacy.statistics import SHADOW, WINDOW, Report
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.reports import Accepted
from fedhw_server.store.schema import MIGRATIONS
from tests.server.conftest import POLICY, START, noise_free, past


def accepted(
    device: str, window: int, release: str, steps: int, schema: int = WINDOW.schema
) -> Accepted:
    report = Report(
        device, schema, window, release, POLICY.epsilon, POLICY.delta, noise_free(steps)
    )
    return Accepted(report, f"{device} {window} {release} {steps}")


RELEASES = ["v1-0123abcd", "v2-0123abcd"]
REPORTS = st.builds(
    accepted,
    st.sampled_from("abc"),
    st.integers(20_000, 20_001),
    st.sampled_from(RELEASES),
    st.integers(-5, 5),
    st.sampled_from([WINDOW.schema, SHADOW.schema]),
)


@given(st.lists(st.lists(REPORTS, max_size=6), max_size=6), st.randoms())
def test_each_device_counts_once_a_window_and_candidate_however_its_reports_come(
    tmp_path_factory, batches, rng
):
    path = tmp_path_factory.mktemp("fleet") / "fleet.db"
    one, other = Fleet(path), Fleet(path)
    first: dict[tuple[str, int | str], Accepted] = {}
    for batch in batches:
        agree = rng.choice((one, other)).reports.count(batch)
        for accepted, agrees in zip(batch, agree, strict=True):
            known = first.setdefault((accepted.report.device, accepted.report.about), accepted)
            assert agrees == (known.digest == accepted.digest)
    counted = [each.report for each in first.values()]
    for candidate in RELEASES:
        judged = [Sums.of(report) for report in counted if report.about == candidate]
        assert one.reports.shadow_sums(candidate) == (reduce(add, judged) if judged else None)
    counted = [report for report in counted if report.schema == WINDOW.schema]
    for window in (20_000, 20_001):
        groups = {report.release for report in counted if report.window == window}
        sums = {
            release: reduce(
                add,
                (Sums.of(r) for r in counted if (r.window, r.release) == (window, release)),
            )
            for release in groups
        }
        assert one.reports.sums(window) == other.reports.sums(window) == sums
    cohorts = Counter(report.window for report in counted)
    assert one.reports.windows() == sorted(cohorts.items(), reverse=True)
    one.close()
    other.close()


def test_two_processes_count_together(tmp_path):
    Fleet(tmp_path / "fleet.db").close()
    script = Path(__file__).with_name("count_some.py")
    processes = [
        subprocess.Popen([sys.executable, script, tmp_path / "fleet.db", device, "20000", "20030"])
        for device in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    fleet = Fleet(tmp_path / "fleet.db")
    assert fleet.reports.windows() == [(window, 3) for window in reversed(range(20_000, 20_030))]
    assert {
        fleet.reports.sums(window)["v1-0123abcd"].count for window, _ in fleet.reports.windows()
    } == {3}
    fleet.close()


def test_what_is_long_over_is_forgotten_but_its_sums(fleet):
    now = START
    fleet.reports.count([accepted("a", past(1000), "v1", 1), accepted("a", past(300), "v1", 1)])
    fleet.reports.prune(now)
    assert [window for window, _ in fleet.reports.windows()] == [past(300)]
    assert fleet.reports.sums(past(1000))["v1"].count == 1


def test_nothing_that_may_still_come_is_forgotten(fleet):
    # Or it would count again.
    now = START
    oldest = min(w for w in range(past(2000), past()) if POLICY.is_open(w, now))
    fleet.reports.count([accepted("a", oldest, "v1", 1)])
    fleet.reports.prune(now)
    assert fleet.reports.count([accepted("a", oldest, "v1", 2)]) == [False]


def test_what_was_counted_before_there_were_candidates_stays(tmp_path):
    path = tmp_path / "fleet.db"
    report = accepted("a", 20_000, "v1-0123abcd", 3)
    whole = Sums.of(report.report)
    with sqlite3.connect(path) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("INSERT INTO reports VALUES (?, ?, ?)", ("a", 20_000, report.digest))
        values = (20_000, "v1-0123abcd", 1, whole.to_bytes())
        db.execute("INSERT INTO sums VALUES (?, ?, ?, ?)", values)
        db.execute("PRAGMA user_version = 1")
    db.close()
    fleet = Fleet(path)
    assert fleet.reports.windows() == [(20_000, 1)]
    assert fleet.reports.sums(20_000) == {"v1-0123abcd": whole}
    assert fleet.reports.count([report, accepted("a", 20_000, "v1-0123abcd", 4)]) == [True, False]
    fleet.close()


def test_who_reported_of_a_candidate_is_known_for_good(fleet):
    told = accepted("a", 1, "v2-0123abcd", 1, SHADOW.schema)
    fleet.reports.count([told, accepted("a", past(300), "v1-0123abcd", 1)])
    fleet.reports.prune(START)
    later = accepted("a", past(), "v2-0123abcd", 1, SHADOW.schema)
    assert fleet.reports.count([told, later]) == [True, False]
    assert fleet.reports.shadow_sums("v2-0123abcd").count == 1
    assert fleet.reports.sums(1) == {}


def test_a_batch_that_fails_leaves_nothing_behind(fleet):
    fleet.reports.count([accepted("a", 1, "v1", 1)])
    good, odd = accepted("b", 2, "v1", 1), accepted("c", 1, "v1", 1)
    other_alphabet = odd.report.steps[:27]
    with pytest.raises(ValueError, match="do not add"):
        fleet.reports.count([good, odd._replace(report=replace(odd.report, steps=other_alphabet))])
    assert fleet.reports.windows() == [(1, 1)]
    assert fleet.reports.count([accepted("b", 2, "v1", 7)]) == [True]
