import os
import random
import signal
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.privacy.budget import ROUNDS_A_DAY, BudgetSpentError, Limits
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.ledger import MIGRATIONS, SCHEMA, Charge, Ledger, PaidRound
from fedhw.privacy.mechanism import GaussianMechanism, composed_epsilon
from fedhw.system.clock import DAY_SECONDS

MECHANISM = GaussianMechanism(1, 1e-6)
LIMITS = Limits(per_day=1, in_all=4, delta=1e-6)
AMPLE = Limits(per_day=1000, in_all=1000, delta=1e-6)
NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2


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


def test_what_is_refused_is_not_charged(ledger):
    with pytest.raises(BudgetSpentError):
        ledger.charge(1, GaussianMechanism(1.01, 1e-6), NOON, never)
    assert ledger.history() == []
    assert ledger.spent(NOON) == (0, 0, 0)


def test_a_report_that_cannot_be_made_is_not_charged(ledger):
    with pytest.raises(ZeroDivisionError):
        ledger.charge(1, MECHANISM, NOON, lambda: bytes(1 // 0))
    assert ledger.history() == []
    assert ledger.charge(1, MECHANISM, NOON, lambda: b"report") == b"report"


def test_what_has_not_arrived_is_offered_until_it_has_or_is_refused(ample):
    for window in (1, 2, 3):
        ample.charge(window, MECHANISM, NOON, lambda window=window: b"%d" % window)
    ample.mark_sent(2, NOON + 5)
    ample.mark_refused(3, "window")
    assert [(charge.about, charge.message) for charge in ample.unsent()] == [(1, b"1")]
    fates = [(charge.sent_at, charge.refused) for charge in ample.history()]
    assert fates == [(None, None), (NOON + 5, None), (None, "window")]
    assert ample.spent(NOON).day == pytest.approx(composed_epsilon([MECHANISM.sigma] * 3, 1e-6))


def test_a_candidate_is_reported_of_once_beside_the_windows(ample, path):
    ample.charge(2, MECHANISM, NOON, lambda: b"window")
    # Not the window of that number, though SQLite would take one for the other elsewhere.
    assert ample.charge("2", MECHANISM, NOON, lambda: b"candidate") == b"candidate"
    assert ample.charge("2", MECHANISM, NOON + 9 * DAY_SECONDS, never) == b"candidate"
    assert [charge.about for charge in Ledger.open(path).history()] == [2, "2"]
    ample.mark_sent("2", NOON)
    assert [charge.about for charge in ample.unsent()] == [2]


def test_a_round_is_there_after_a_restart_and_costs_once(ample, path):
    ample.charge_round("first", 0.02, NOON)
    ample.charge_round("second", 0.01, NOON)
    spent = ample.spent(NOON)
    ample.charge_round("first", 0.02, NOON + DAY_SECONDS)
    again = Ledger.open(path)
    assert again.rounds() == [PaidRound("first", NOON, 0.02), PaidRound("second", NOON, 0.01)]
    assert again.spent(NOON) == spent == (epsilon_of(0.03, 1e-6), epsilon_of(0.03, 1e-6), 2)
    assert again.spent(NOON + DAY_SECONDS) == (0, epsilon_of(0.03, 1e-6), 0)
    assert again.history() == []


def test_a_round_that_is_paid_for_does_not_become_dearer(ample):
    ample.charge_round("first", 0.02, NOON)
    with pytest.raises(InputError, match=r"round: first was paid for at rho 0\.02"):
        ample.charge_round("first", 0.03, NOON)


def test_rounds_of_a_day_are_few_however_little_they_tell(ample):
    for number in range(ROUNDS_A_DAY):
        ample.charge_round(str(number), 0.0, NOON)
    with pytest.raises(BudgetSpentError, match=r"201 rounds in the last 24 hours, and .* is 200;"):
        ample.charge_round("one more", 0.0, NOON + DAY_SECONDS - 1)
    ample.charge_round("0", 0.0, NOON)  # is paid for
    ample.charge_round("one more", 0.0, NOON + DAY_SECONDS)
    assert ample.spent(NOON).rounds == 1 + ROUNDS_A_DAY  # what is dated later counts as of today


def test_what_could_be_paid_for_can_be_asked_and_costs_nothing(ledger):
    ledger.check_report(MECHANISM, NOON)
    ledger.check_round(0.01, NOON)
    assert ledger.spent(NOON) == (0, 0, 0)
    ledger.charge_round("first", 0.02, NOON)
    with pytest.raises(BudgetSpentError):
        ledger.check_report(MECHANISM, NOON)
    with pytest.raises(BudgetSpentError):
        ledger.check_round(0.02, NOON)
    ledger.check_round(0.001, NOON)
    with pytest.raises(InputError, match="is not a cost"):
        ledger.check_round(-0.01, NOON)


def old_ledger(path: Path) -> list[Charge]:
    """One of before there were rounds, with two reports."""
    charges = [
        Charge(7, NOON, 1.0, 1e-6, MECHANISM.sigma, b"sent", NOON + 5, None),
        Charge(8, NOON, 1.0, 1e-6, MECHANISM.sigma, b"waits", None, None),
    ]
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)
        limits = (1000.0, 1000.0, 1e-6, zlib.crc32(b"(1000.0, 1000.0, 1e-06)"))
        db.execute("INSERT INTO limits VALUES (?, ?, ?, ?)", limits)
        for charge in charges:
            values = (*charge[:6], charge.checksum, *charge[6:])
            db.execute("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    return charges


def test_an_older_ledger_goes_on(path):
    charges = old_ledger(path)
    ledger = Ledger.open(path)
    assert ledger.history() == charges
    assert ledger.limits == AMPLE
    assert ledger.rounds() == []
    assert ledger.spent(NOON) == (*2 * (composed_epsilon([MECHANISM.sigma] * 2, 1e-6),), 0)
    assert ledger.charge(8, MECHANISM, NOON, never) == b"waits"
    ledger.charge_round("first", 0.1, NOON)
    assert len(Ledger.open(path).rounds()) == 1


def test_damage_in_an_older_ledger_is_not_healed_on_the_way(path):
    old_ledger(path)
    whole, noticed = path.read_bytes(), 0
    rng = random.Random(11)
    for _ in range(200):
        damaged = bytearray(whole)
        start = rng.randrange(len(whole))
        for place in range(start, min(len(whole), start + rng.choice([1, 4, 512]))):
            damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert [charge.message for charge in Ledger.open(path).history()] == [b"sent", b"waits"]
        except InputError:
            noticed += 1
            with pytest.raises(InputError):
                Ledger.open(path)
    assert noticed > 15  # the rest fell on empty space


@pytest.mark.parametrize("step", range(1, 7))
def test_killed_on_the_way_an_older_ledger_is_whole(path, step):
    charges = old_ledger(path)
    program = """
import os, sqlite3, sys
from pathlib import Path
from fedhw.privacy.ledger import Ledger

class Dying(sqlite3.Connection):
    writes = 0

    def execute(self, statement, *values):
        changes = statement.strip().startswith(("CREATE", "INSERT", "DROP", "ALTER", "COMMIT"))
        Dying.writes += changes
        done = super().execute(statement, *values)
        if changes and Dying.writes == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        return done

connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, factory=Dying, **k)
Ledger.open(Path(sys.argv[1]))
"""
    killed = subprocess.run([sys.executable, "-c", program, path, str(step)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Ledger.open(path).history() == charges


def test_a_newer_ledger_is_left_alone(ledger, path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(InputError, match="newer than 1, the newest this program knows"):
        Ledger.open(path)


def test_what_was_never_charged_cannot_be_marked(ample):
    with pytest.raises(InputError, match="about: 7 was never charged"):
        ample.mark_sent(7, NOON)
    with pytest.raises(InputError, match="about: 7 was never charged"):
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
    with pytest.raises(InputError, match="exists; open it instead"):
        Ledger.create(path, AMPLE)
    assert Ledger.open(path).limits == LIMITS
    assert len(Ledger.open(path).history()) == 1


def test_it_is_made_whole_or_not_at_all(path):
    code = (
        "import resource, sys, pathlib; from fedhw.privacy.budget import Limits;"
        "from fedhw.privacy.ledger import Ledger;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "Ledger.create(pathlib.Path(sys.argv[1]), Limits(1, 4, 1e-6))"
    )
    full = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert b"StoreError: ledger: the disk fails" in full.stderr
    assert list(path.parent.iterdir()) == []
    assert Ledger.create(path, LIMITS).history() == []


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"not a ledger" * 1000])
def test_a_file_that_is_no_ledger_means_silence(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged; nothing may be sent"):
        Ledger.open(path)
    with pytest.raises(InputError, match="exists; open it instead"):
        Ledger.create(path, LIMITS)
    assert path.read_bytes() == content


def test_damage_anywhere_refunds_nothing(ample, path):
    for window in range(30):
        ample.charge(window, MECHANISM, NOON, lambda: os.urandom(600))
        ample.charge_round(f"round {window}", 0.001, NOON)
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
        with pytest.raises(InputError, match=r"is damaged|is missing"):
            Ledger.open(path)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("charges", "sigma = 1e9"),
        ("charges", "at = 0"),
        ("charges", "about = '1'"),
        ("limits", "in_all = 1e9"),
        ("rounds", "rho = 0"),
        ("rounds", "name = 'another'"),
    ],
)
def test_a_figure_that_changed_is_noticed(ample, path, table, change):
    ample.charge(1, MECHANISM, NOON, lambda: b"report")
    ample.charge_round("first", 0.1, NOON)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE {table} SET {change}")
    db.close()
    with pytest.raises(InputError, match="is damaged"):
        Ledger.open(path)


def test_a_ledger_that_another_holds_is_not_called_damaged(ledger, path, monkeypatch):
    monkeypatch.setattr("fedhw.privacy.ledger.LOCK_TIMEOUT_SECONDS", 0.01)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match=r"another program keeps .*ledger\.db busy"):
        ledger.charge(1, MECHANISM, NOON, never)
    holder.close()
    assert ledger.charge(1, MECHANISM, NOON, lambda: b"report") == b"report"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.sampled_from([0.3, 1, 2]), st.integers(0, 5), st.booleans()
        ),
        max_size=25,
    )
)
def test_no_order_of_charges_passes_the_limits(tmp_path_factory, attempts):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    limits = Limits(per_day=2.5, in_all=5, delta=1e-6)
    ledger, given_out = Ledger.create(path, limits), {}
    for window, epsilon, day, is_round in attempts:
        message = os.urandom(8)
        try:
            if is_round:
                ledger.charge_round(str(window), epsilon / 50, NOON + day * DAY_SECONDS)
                continue
            answer = ledger.charge(
                window,
                GaussianMechanism(epsilon, 1e-6),
                NOON + day * DAY_SECONDS,
                lambda m=message: m,
            )
        except InputError:
            continue
        assert given_out.setdefault(window, answer) == answer
    charges = ledger.history()
    assert {charge.about: charge.message for charge in charges} == given_out
    rounds = ledger.rounds()
    in_all = composed_epsilon([c.sigma for c in charges], 1e-6, sum(one.rho for one in rounds))
    assert in_all <= limits.in_all + 1e-6
    for end in {paid.at for paid in (*charges, *rounds)}:
        day = [c.sigma for c in charges if end - DAY_SECONDS < c.at <= end]
        rho = sum(one.rho for one in rounds if end - DAY_SECONDS < one.at <= end)
        assert composed_epsilon(day, 1e-6, rho) <= limits.per_day + 1e-6
    assert all(one.about < other.about for one, other in pairwise(charges))


CHARGING = """
import os, sys
from pathlib import Path
from fedhw.privacy.ledger import Ledger
from fedhw.system.clock import DAY_SECONDS
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
        charged = {charge.about: charge.message for charge in Ledger.open(path).history()}
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
    charged = {charge.about: charge.message for charge in ample.history()}
    assert charged.keys() == set(range(60))
    for process, output in zip(processes, outputs, strict=True):
        # Whoever comes second for a window gets the bytes of the first; none goes back.
        assert shown(output).items() <= charged.items()
        assert process.returncode == 0
        assert len(shown(output)) == 60
