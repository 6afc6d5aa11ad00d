import os
import random
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.privacy.ledger import DAY, BudgetSpentError, Charge, Ledger, Limits
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon

MECHANISM = GaussianMechanism(1, 1e-6)
LIMITS = Limits(per_day=1, in_all=4, delta=1e-6)
AMPLE = Limits(per_day=1000, in_all=1000, delta=1e-6)
NOON = 20_000 * DAY + DAY / 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger.create(path, LIMITS)


@pytest.fixture
def ample(path: Path) -> Ledger:
    return Ledger.create(path, AMPLE)


def never() -> bytes:
    raise AssertionError("nothing may be made")


def test_a_charge_is_there_after_a_restart(ledger, path):
    assert ledger.charge(20_000, MECHANISM, NOON, lambda: b"report") == b"report"
    again = Ledger.open(path)
    assert again.limits == LIMITS
    assert again.history() == [
        Charge(20_000, NOON, 1.0, 1e-6, MECHANISM.sigma, b"report", None, None)
    ]
    assert again.spent(NOON).day == pytest.approx(1)


def test_the_file_is_private_and_every_commit_is_in_it(ledger, path, tmp_path):
    assert path.stat().st_mode & 0o777 == 0o600
    ledger.charge(1, MECHANISM, NOON, lambda: b"report")
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]
    assert b"report" in path.read_bytes()


def test_a_window_that_is_paid_for_gives_the_same_bytes_and_costs_nothing(ledger):
    ledger.charge(1, MECHANISM, NOON, lambda: b"first")
    spent = ledger.spent(NOON)
    assert ledger.charge(1, GaussianMechanism(9, 1e-6), NOON, never) == b"first"
    assert ledger.spent(NOON) == spent
    assert len(ledger.history()) == 1


def test_a_day_s_budget_is_spent_and_comes_back_after_24_hours(ledger):
    ledger.charge(1, MECHANISM, NOON, lambda: b"1")
    with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours.* is 1;"):
        ledger.charge(2, MECHANISM, NOON + DAY - 1, never)
    assert ledger.charge(2, MECHANISM, NOON + DAY, lambda: b"2") == b"2"


def test_the_budget_in_all_never_comes_back(ledger):
    affordable = sum(composed_epsilon([MECHANISM.sigma] * n, 1e-6) <= 4 for n in range(1, 100))
    # Gaussians compose by their squares: more than four reports of epsilon 1.
    assert affordable > 8
    for day in range(affordable):
        ledger.charge(day, MECHANISM, NOON + day * DAY, lambda: b"report")
    with pytest.raises(BudgetSpentError, match=r"of all reports, and the limit is 4"):
        ledger.charge(affordable, MECHANISM, NOON + affordable * DAY, never)
    with pytest.raises(BudgetSpentError):
        ledger.charge(10_000, MECHANISM, NOON + 10_000 * DAY, never)
    assert ledger.spent(NOON + 10_000 * DAY).day == 0


def test_what_is_refused_is_not_charged(ledger):
    with pytest.raises(BudgetSpentError):
        ledger.charge(1, GaussianMechanism(1.01, 1e-6), NOON, never)
    assert ledger.history() == []
    assert ledger.spent(NOON) == (0, 0)


def test_a_report_that_cannot_be_made_is_not_charged(ledger):
    with pytest.raises(ZeroDivisionError):
        ledger.charge(1, MECHANISM, NOON, lambda: bytes(1 // 0))
    assert ledger.history() == []
    assert ledger.charge(1, MECHANISM, NOON, lambda: b"report") == b"report"


def test_costs_of_another_delta_are_counted_at_the_limits_delta(path):
    ledger = Ledger.create(path, Limits(1, 4, 1e-9))
    with pytest.raises(BudgetSpentError, match=r"epsilon 1\.\d+ of the last 24 hours"):
        ledger.charge(1, MECHANISM, NOON, never)


def test_a_clock_that_is_set_back_refunds_nothing(ledger):
    ledger.charge(30, MECHANISM, NOON + 9 * DAY, lambda: b"report")
    assert ledger.spent(NOON).day == pytest.approx(1)
    with pytest.raises(BudgetSpentError):
        ledger.charge(31, MECHANISM, NOON, never)
    # Nor does a clock that was ahead silence the device for as long as that.
    later = NOON + 20 * DAY
    assert ledger.charge(21, MECHANISM, later, lambda: b"earlier window") == b"earlier window"


def test_what_has_not_arrived_is_offered_until_it_has_or_is_refused(ample):
    for window in (1, 2, 3):
        ample.charge(window, MECHANISM, NOON, lambda window=window: b"%d" % window)
    ample.mark_sent(2, NOON + 5)
    ample.mark_refused(3, "window")
    assert [(charge.window, charge.message) for charge in ample.unsent()] == [(1, b"1")]
    fates = [(charge.sent_at, charge.refused) for charge in ample.history()]
    assert fates == [(None, None), (NOON + 5, None), (None, "window")]
    assert ample.spent(NOON).day == pytest.approx(composed_epsilon([MECHANISM.sigma] * 3, 1e-6))


def test_what_was_never_charged_cannot_be_marked(ample):
    with pytest.raises(InputError, match="window: 7 was never charged"):
        ample.mark_sent(7, NOON)
    with pytest.raises(InputError, match="window: 7 was never charged"):
        ample.mark_refused(7, "rate")


def test_a_ledger_that_is_missing_means_silence(path, ledger):
    path.unlink()
    with pytest.raises(InputError, match="is missing; nothing may be sent"):
        Ledger.open(path)
    with pytest.raises(InputError, match="is missing; nothing may be sent"):
        ledger.charge(1, MECHANISM, NOON, never)
    assert not path.exists()


def test_a_ledger_is_begun_once(ledger, path):
    ledger.charge(1, MECHANISM, NOON, lambda: b"report")
    with pytest.raises(InputError, match="exists; go on with it"):
        Ledger.create(path, AMPLE)
    assert Ledger.open(path).limits == LIMITS
    assert len(Ledger.open(path).history()) == 1


def test_it_is_made_whole_or_not_at_all(path):
    code = (
        "import resource, sys, pathlib; from fedhw.privacy.ledger import Ledger, Limits;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "Ledger.create(pathlib.Path(sys.argv[1]), Limits(1, 4, 1e-6))"
    )
    full = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert b"cannot be used" in full.stderr
    assert list(path.parent.iterdir()) == []
    assert Ledger.create(path, LIMITS).history() == []


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"not a ledger" * 1000])
def test_a_file_that_is_no_ledger_means_silence(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged; nothing may be sent"):
        Ledger.open(path)
    with pytest.raises(InputError, match="exists; go on with it"):
        Ledger.create(path, LIMITS)
    assert path.read_bytes() == content


def test_damage_anywhere_refunds_nothing(ample, path):
    for window in range(30):
        ample.charge(window, MECHANISM, NOON, lambda: os.urandom(600))
    whole, spent, noticed = path.read_bytes(), ample.spent(NOON), 0
    rng = random.Random(7)
    for _ in range(300):
        damaged = bytearray(whole)
        start = rng.randrange(len(whole))
        for place in range(start, min(len(whole), start + rng.choice([1, 4, 512]))):
            damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            found = Ledger.open(path)
            assert found.spent(NOON) == spent
            assert found.limits == AMPLE
        except InputError:
            noticed += 1
    assert noticed > 100  # the rest fell on empty space
    for size in range(0, len(whole), 4096):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"is damaged|cannot be used"):
            Ledger.open(path)


@pytest.mark.parametrize(
    ("table", "change"),
    [("charges", "sigma = 1e9"), ("charges", "at = 0"), ("limits", "in_all = 1e9")],
)
def test_a_figure_that_changed_is_noticed(ledger, path, table, change):
    ledger.charge(1, MECHANISM, NOON, lambda: b"report")
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE {table} SET {change}")
    db.close()
    with pytest.raises(InputError, match="is damaged"):
        Ledger.open(path)


def test_a_ledger_that_another_holds_is_not_called_damaged(ledger, path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, timeout=0.01))
    holder = connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match=r"cannot be used .*locked"):
        ledger.charge(1, MECHANISM, NOON, never)
    holder.close()
    assert ledger.charge(1, MECHANISM, NOON, lambda: b"report") == b"report"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 4, 1e-6), "per_day: 0 is no budget"),
        ((1, float("inf"), 1e-6), "in_all: inf is no budget"),
        ((1, float("nan"), 1e-6), "in_all: nan is no budget"),
        ((1, 4, 0), "delta: 0 is out of range"),
    ],
)
def test_limits_that_are_none_are_refused(limits, message):
    with pytest.raises(InputError, match=message):
        Limits(*limits)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.3, 1, 2]), st.integers(0, 5)),
        max_size=25,
    )
)
def test_no_order_of_charges_passes_the_limits(tmp_path_factory, attempts):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    limits = Limits(per_day=2.5, in_all=5, delta=1e-6)
    ledger, given_out = Ledger.create(path, limits), {}
    for window, epsilon, day in attempts:
        message = os.urandom(8)
        try:
            answer = ledger.charge(
                window, GaussianMechanism(epsilon, 1e-6), NOON + day * DAY, lambda m=message: m
            )
        except InputError:
            continue
        assert given_out.setdefault(window, answer) == answer
    charges = ledger.history()
    assert {charge.window: charge.message for charge in charges} == given_out
    assert composed_epsilon([c.sigma for c in charges], 1e-6) <= limits.in_all + 1e-6
    for end in {charge.at for charge in charges}:
        day = [c.sigma for c in charges if end - DAY < c.at <= end]
        assert composed_epsilon(day, 1e-6) <= limits.per_day + 1e-6
    assert all(one.window < other.window for one, other in pairwise(charges))


CHARGING = """
import os, sys
from pathlib import Path
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
path, first, last = sys.argv[1:]
ledger, mechanism = Ledger.open(Path(path)), GaussianMechanism(0.01, 1e-6)
for window in range(int(first), int(last)):
    message = ledger.charge(window, mechanism, 1e9, lambda: os.urandom(16))
    print(window, message.hex(), flush=True)
"""
"""Charges windows, and shows each report as soon as it has it: so it was sent."""


def charging(path: Path, first: int, last: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHARGING, str(path), str(first), str(last)],
        stdout=subprocess.PIPE,
        text=True,
    )


def shown(output: str) -> dict[int, bytes]:
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return {int(window): bytes.fromhex(message) for window, message in lines}


def test_what_a_killed_process_sent_was_charged(ample, path):
    rng, told, first = random.Random(3), {}, 0
    for _ in range(5):
        process = charging(path, first, 1_000_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 20))]
        process.send_signal(signal.SIGKILL)
        told |= shown("".join(lines) + process.stdout.read())
        process.wait()
        charged = {charge.window: charge.message for charge in Ledger.open(path).history()}
        assert told.items() <= charged.items()
        # Begin where it may have been cut off: between the charge and the sending.
        first = max(charged)
    assert len(ample.unsent()) == len(charged)


def test_a_process_killed_between_charge_and_sending_sends_the_same_bytes_later(ample, path):
    program = CHARGING.replace(
        "print(window, message.hex(), flush=True)", "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(path), "5", "6"], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == b""
    [charge] = ample.unsent()
    spent = ample.spent(1e9)
    assert spent.in_all == pytest.approx(0.01)
    assert shown(charging(path, 5, 6).communicate()[0]) == {5: charge.message}
    assert ample.spent(1e9) == spent


def test_a_process_killed_while_it_makes_a_report_has_charged_nothing(ample, path):
    program = CHARGING.replace("os.urandom(16)", "os.kill(os.getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", program, str(path), "5", "6"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ample.history() == []


def test_two_processes_charge_each_window_once(ample, path):
    processes = [charging(path, 0, 60), charging(path, 0, 60)]
    outputs = [process.communicate()[0] for process in processes]
    charged = {charge.window: charge.message for charge in ample.history()}
    assert charged.keys() == set(range(60))
    for process, output in zip(processes, outputs, strict=True):
        # Whoever comes second for a window gets the bytes of the first; none goes back.
        assert shown(output).items() <= charged.items()
        assert process.returncode == 0
        assert len(shown(output)) == 60
