"""The operator's commands, typed; a coordinator need not run for them."""

import contextlib
import json
import re
import sys
from dataclasses import replace

import pytest

from fedhw.cli import main
from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.invitation import Invitation
from fedhw.release.release import Release, publish
from fedhw.release.signing import ReleaseKey
from fedhw.system import console
from fedhw_server.leader.plan import Plan
from fedhw_server.leader.superlink import app_digest
from fedhw_server.store.reports import Accepted
from tests.server.conftest import (  # noqa: F401
    POLICY,
    Pen,
    fleet,
    home,
    past,
    published,
    registry,
    releases,
)


@pytest.fixture
def ready(fleet):  # noqa: F811
    """A coordinator was ready here once."""
    fleet.settings.keep("statistics", "fleet.example.org:9470")
    fleet.settings.keep("flower", "fleet.example.org:9471")
    fleet.settings.keep("app", app_digest())
    return fleet


@pytest.fixture
def typed(home, ready, capsys, monkeypatch):  # noqa: F811
    """Types `fedhw server ...` and returns what it prints."""
    monkeypatch.setattr(console.out, "_width", 200)

    def typed(*command, code=0):
        monkeypatch.setattr(
            sys, "argv", ["fedhw", "server", *map(str, command), "--home", str(home.directory)]
        )
        ended = 0
        try:
            main()
        except SystemExit as error:
            ended = int(error.code or 0)
        said = capsys.readouterr()
        assert ended == code, said.err
        if code:
            *_, last = said.err.splitlines()
            assert re.fullmatch(r"fedhw: [a-z].+[^.]", last)
            return last.removeprefix("fedhw: ")
        return said.out

    return typed


def report(fleet, release, cohort):  # noqa: F811
    for number in range(cohort):
        fleet.reports.count([Accepted(Pen(f"pen-{number}").report(release), f"{number}")])


def test_an_invitation_is_all_that_a_device_needs(typed, ready, home, tmp_path):  # noqa: F811
    (tmp_path / "pen.enroll").write_text(typed("enroll", "pen"))
    invitation = Invitation.load(tmp_path / "pen.enroll")
    assert (invitation.device, invitation.app) == ("pen", app_digest())
    assert invitation.statistics == "fleet.example.org:9470"
    assert invitation.flower == "fleet.example.org:9471"
    assert invitation.release_key == ReleaseKey.load(home.release_key).public
    assert invitation.certificate_authority == (home.certificates / "ca.crt").read_text()
    policy = (invitation.window, invitation.epsilon, invitation.delta)
    assert policy == (POLICY.window, POLICY.epsilon, POLICY.delta)
    pen = Pen("pen")
    assert ready.members.enrol("pen", invitation.token, pen.public, pen.node).state == "enrolled"


def test_a_name_is_used_once(typed, ready):
    Pen("pen").join(ready)
    assert typed("enroll", "pen", code=2) == "name: pen is enrolled already; give another name"
    assert typed("enroll", "a b", code=2).startswith("name: 'a b' cannot name a device")


def test_revoked_is_revoked(typed, ready):
    Pen("pen").join(ready)
    assert typed("revoke", "pen") == "pen is revoked\n"
    assert ready.members.get("pen").state == "revoked"
    assert typed("revoke", "quill", code=2).startswith("name: quill is not known")


def test_publish_and_roll_back(typed, registry, releases):  # noqa: F811
    first = typed("publish", releases[0]).removeprefix("published ").strip()
    second = typed("publish", releases[1]).removeprefix("published ").strip()
    assert typed("publish", releases[1], code=2).startswith("release: its files are those of")
    assert typed("publish", "nowhere", code=2).startswith("release: nowhere/manifest.json")
    assert re.fullmatch(
        r"published (v3-[0-9a-f]{8}), which restores version 1\n", typed("rollback", 1)
    )
    assert typed("rollback", 9, code=2).startswith("version: 9 was never published; give one of")
    names = [manifest.name for manifest in registry.versions()]
    assert names[:2] == [first, second]
    listed = json.loads(typed("releases", "--json"))["releases"]
    assert [each["name"] for each in listed] == names
    assert [each["restores"] for each in listed] == [None, None, 1]
    shown = typed("releases")
    assert all(name in shown for name in names)
    assert "version 1" in shown


@pytest.fixture(scope="module")
def launch_data(tmp_path_factory):
    """What the small release was made of."""
    path = tmp_path_factory.mktemp("data") / "launch.npz"
    save_npz(path, synthetic_writers(30, 150))
    return path


def test_public_characters_are_those_of_the_release(
    typed,
    home,  # noqa: F811
    launch_data,
    release_directory,
    tmp_path,
):
    assert typed("improve", code=2).startswith("release: none was published yet; run `fedhw")
    told = typed("public", launch_data, release_directory, code=2)
    assert told.startswith("release: none was published yet")
    typed("publish", release_directory)
    assert typed("improve", code=2).startswith("public: there are no public characters in")
    save_npz(tmp_path / "others.npz", synthetic_writers(range(50, 52), 62))
    told = typed("public", tmp_path / "others.npz", release_directory, code=2)
    assert told.startswith("data: none of its 2 writers is among those")
    told = typed("public", launch_data, release_directory)
    assert re.fullmatch(r"\d+ characters to rehearse, \d+ to judge by\n", told)
    kept = Public.load(home.public)
    assert set(kept.writers) <= Release.load(release_directory).trained_on
    assert f"{len(kept.rehearsal)} characters to rehearse, {len(kept.validation)}" in told


def test_public_characters_are_of_the_fleets_alphabet(
    typed,
    home,  # noqa: F811
    launch_data,
    release_directory,
    releases,  # noqa: F811
    tmp_path,
):
    expert = Release.load(releases[0])
    writers = synthetic_writers(range(3000, 3002), 62)
    turned = replace(writers, alphabet=writers.alphabet[::-1])
    publish(tmp_path / "turned", expert.expert, "lenet5", expert.sketch, turned, [], {})
    typed("publish", tmp_path / "turned")
    told = typed("public", launch_data, release_directory, code=2)
    assert told.startswith("alphabet: ")
    assert not home.public.exists()


def test_an_attempt_is_begun_and_stopped_by_hand(typed, ready, launch_data, release_directory):
    newest = typed("publish", release_directory).removeprefix("published ").strip()
    assert typed("improve", "--stop", code=2).startswith("stop: no attempt to improve is in flight")
    typed("public", launch_data, release_directory)
    told = typed("improve", code=2)
    assert told.startswith("rounds: 100 of 60 devices are 6000 participations and 0 enrolled")
    typed("improvement", "--rounds", 1, "--cohort", 2, "--survivors", 2)
    for name in ("pen", "quill"):
        Pen(name).join(ready)
    assert typed("improve").startswith(f"{newest} is to be improved")
    assert typed("improve", code=2).startswith("improve: attempt 1 is in flight (rounds)")
    listed = json.loads(typed("releases", "--json"))
    [attempt] = listed["attempts"]
    assert (attempt["parent"], attempt["stage"], attempt["stopping"]) == (1, "rounds", False)
    assert attempt["plan"]["rounds"] == 1
    [decision] = listed["decisions"]
    assert (decision["decision"], decision["reason"]) == ("begin", "asked for by hand")
    typed("improve", "--stop")
    assert json.loads(typed("releases", "--json"))["attempts"][0]["stopping"] is True


def test_what_came_of_attempts_is_shown(typed, ready, registry, releases):  # noqa: F811
    registry.publish(releases[0])
    attempts = ready.attempts
    attempts.begin(1, "wrong on [much]")
    gone = attempts.current._replace(stage="rejected", candidate="v0-0123abcd")
    attempts.move(gone, "rejected", "worse on public data")
    attempts.begin(1, "again")
    newest = registry.publish(releases[1])
    for node in range(50):
        ready.members.set_node(Pen(f"pen-{node}").join(ready).name, node)
    attempts.move(attempts.current._replace(stage="roll-out", version=2), "publish", "it is better")
    shown = typed("releases")
    for part in ("wrong on [much]", "v0-0123abcd", "rejected", "worse on public data", "version 2"):
        assert part in shown
    assert f"{newest.name} is for 8% of the devices so far" in shown
    assert json.loads(typed("releases", "--json"))["share"] == 0.08


def test_the_plan_is_shown_and_changed(typed, ready, registry, releases):  # noqa: F811
    assert typed("improvement", "--rounds", 7, code=2).startswith("release: none was published yet")
    assert ready.attempts.plan == Plan()
    registry.publish(releases[0])
    known = json.loads(typed("improvement", "--json"))
    assert (known["automatic"], known["rounds"]) == (False, Plan().rounds)
    assert known["epsilon"]["spent"] == 0
    before = known["epsilon"]["attempt"]
    assert 0 < before < Plan().trigger.epsilon
    options = ("--automatic", "--rounds", 7, "--noise", 2, "--cohort", 50, "--survivors", 30)
    more = ("--participations", 3, "--canary", 0.5, "--error", 0.3, "--rise", 0.2)
    limits = ("--online", 60, "--pause-days", 2, "--epsilon-in-all", 20)
    known = json.loads(typed("improvement", *options, *more, *limits, "--json"))
    trigger = Trigger(error=0.3, rise=0.2, cohort=60, pause=2 * 86_400, epsilon=20)
    assert ready.attempts.plan == Plan(True, 7, 2, 50, 30, 3, 0.5, trigger)
    assert known["trigger"] == vars(trigger)
    assert known["epsilon"]["attempt"] != before
    shown = typed("improvement", "--by-hand")
    assert "by hand" in shown
    assert "asks 50 devices and needs 30" in shown
    assert ready.attempts.plan.trigger == trigger
    for option, value in (("--survivors", 51), ("--online", 1), ("--epsilon-in-all", 0)):
        told = typed("improvement", option, value, code=2)
        assert told.startswith(f"{option.removeprefix('--')}: {value} is out of range")


def test_pause_and_resume(typed, ready):
    assert not ready.settings.is_paused
    typed("pause")
    assert ready.settings.is_paused
    assert "no, paused" in typed("status")
    typed("resume")
    assert not ready.settings.is_paused


def test_status(typed, ready, published):  # noqa: F811
    Pen("run").join(ready)
    Pen("gone").join(ready)
    ready.members.invite("guest")
    ready.members.note_answer("run", 1, published.name, "running", None)
    ready.members.revoke("gone")
    ready.offer_log.end(ready.offer_log.begin(1, 2), 1, 0.5)
    report(ready, published.name, 1)
    known = json.loads(typed("status", "--json"))
    assert known["running"] is False
    assert known["release"] == published.name
    assert known["statistics"] == "fleet.example.org:9470"
    assert known["devices"] == {
        "invited": 1,
        "enrolled": 1,
        "online": 0,
        "on_release": 1,
        "held_back": 0,
        "refused": 0,
        "revoked": 1,
    }
    assert (known["last_round"]["asked"], known["last_round"]["answered"]) == (2, 1)
    assert known["newest_window"] == {"window": past(), "reports": 1}
    assert known["policy"] == vars(POLICY)
    shown = typed("status")
    assert re.search(r"1 of 2, \d+ seconds ago", shown)
    assert "covers 10 s, costs (50, 1e-06)" in shown


def test_status_of_a_fleet_that_has_nothing(typed):
    known = json.loads(typed("status", "--json"))
    assert known["release"] is known["last_round"] is known["newest_window"] is None
    assert "none published yet" in typed("status")


def test_devices(typed, ready, published):  # noqa: F811
    Pen("pen").join(ready)
    ready.members.invite("guest")
    ready.members.note_answer("pen", 1, published.name, "refused", "store")
    guest, pen = json.loads(typed("devices", "--json"))
    assert (guest["name"], guest["state"]) == ("guest", "invited")
    assert (pen["running"], pen["adoption"], pen["refusal"]) == (published.name, "refused", "store")
    shown = typed("devices")
    assert "refused: store" in shown
    assert published.name in shown
    assert "never" in shown
    # Keys and tokens are nobody's business.
    assert not {"token", "report_key", "node_key"} & pen.keys()


def test_statistics(typed, ready, published):  # noqa: F811
    report(ready, published.name, 3)
    known = json.loads(typed("statistics", "--json"))
    assert (known["window"], known["cohort"]) == (past(), 3)
    assert list(known["by_release"]) == [published.name]
    gain = next(each for each in known["estimates"] if each["name"] == "gain")
    assert gain["low"] < gain["mean"] < gain["high"]
    assert json.loads(typed("statistics", "--json", "--window", past()))["cohort"] == 3
    shown = typed("statistics")
    assert "3 devices" in shown
    assert "moe_accuracy" in shown
    assert "most errors at" in shown


def test_nothing_is_shown_of_too_few(typed, ready, published):  # noqa: F811
    report(ready, published.name, 1)
    sentence = "statistics: no window has reports of 2 devices, and nothing is shown of fewer; wait"
    assert typed("statistics", code=2).startswith(sentence)
    assert typed("statistics", "--json", code=2).startswith(sentence)
    report(ready, published.name, 3)
    assert typed("statistics", "--window", past(5), code=2).startswith(sentence)


@pytest.mark.parametrize("where", ["before", "environment"])
def test_the_home_may_be_told_otherwise(typed, home, capsys, monkeypatch, where):  # noqa: F811
    told = ["--home", str(home.directory)] if where == "before" else []
    if where == "environment":
        monkeypatch.setenv("FEDHW_SERVER_HOME", str(home.directory))
    monkeypatch.setattr(sys, "argv", ["fedhw", "server", *told, "status", "--json"])
    with contextlib.suppress(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["flower"] == "fleet.example.org:9471"


COMMANDS = [
    ("enroll", "pen"),
    ("revoke", "pen"),
    ("publish", "somewhere"),
    ("rollback", "1"),
    ("pause",),
    ("resume",),
    ("status",),
    ("devices",),
    ("releases",),
    ("statistics",),
    ("public", "synthetic", "somewhere"),
    ("improve",),
    ("improvement",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_a_coordinator_each_says_so(tmp_path, capsys, monkeypatch, command):
    place = tmp_path / "nowhere"
    monkeypatch.setattr(sys, "argv", ["fedhw", "server", *command, "--home", str(place)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"fedhw: home: no coordinator was ever started in {place}; run `fedhw server` first, or "
        "give its --home\n"
    )
    assert not place.exists()


@pytest.mark.parametrize("command", [("enroll", "pen"), ("status",)], ids=lambda each: each[0])
def test_a_coordinator_that_was_never_ready_is_one_sentence(
    fleet,  # noqa: F811
    home,  # noqa: F811
    capsys,
    monkeypatch,
    command,
):
    monkeypatch.setattr(sys, "argv", ["fedhw", "server", *command, "--home", str(home.directory)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no coordinator was ever ready" in capsys.readouterr().err
    assert fleet.members.all() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epsilon", "0"], "epsilon: 0 is out of range"),
        (["--epsilon", "nan"], "epsilon: nan is out of range"),
        (["--delta", "1"], "delta: 1 is out of range"),
    ],
)
def test_a_policy_that_cannot_be_is_one_sentence(typed, options, sentence):
    assert typed(*options, code=2).startswith(sentence)
