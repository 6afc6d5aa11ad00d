"""Attempts to improve, planned and begun by the operator."""

import json
import re
from dataclasses import replace

import pytest

from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.plan import Plan
from fedhw.improvement.public import Public
from fedhw.improvement.trigger import Trigger
from fedhw.observation import Labels
from fedhw.release.release import Release, publish
from tests.server.conftest import Pen


@pytest.fixture(scope="module")
def launch_data(tmp_path_factory):
    """What the small release was made of."""
    path = tmp_path_factory.mktemp("data") / "launch.npz"
    save_npz(path, synthetic_writers(30, 150))
    return path


def test_public_characters_are_those_of_the_release(
    typed,
    home,
    launch_data,
    release_directory,
    tmp_path,
):
    assert typed("improve", code=2).startswith("release: none was published yet; run `fedhw")
    told = typed("public", launch_data, release_directory, code=2)
    assert told.startswith("release: none was published yet")
    typed("publish", release_directory)
    assert typed("improve", code=2).startswith("public: there are no public observations in")
    save_npz(tmp_path / "others.npz", synthetic_writers(range(50, 52), 62))
    told = typed("public", tmp_path / "others.npz", release_directory, code=2)
    assert told.startswith("data: none of its 2 writers is among those")
    told = typed("public", launch_data, release_directory)
    assert re.fullmatch(r"\d+ observations to rehearse, \d+ to judge by\n", told)
    kept = Public.load(home.public)
    assert set(kept.writers) <= Release.load(release_directory).trained_on
    assert f"{len(kept.rehearsal)} observations to rehearse, {len(kept.validation)}" in told


def test_public_characters_are_of_the_fleets_alphabet(
    typed,
    home,
    launch_data,
    release_directory,
    releases,
    tmp_path,
):
    expert = Release.load(releases[0])
    writers = synthetic_writers(range(3000, 3002), 62)
    turned = replace(writers, classes=Labels(writers.classes.texts[::-1]))
    publish(tmp_path / "turned", expert.expert, "lenet5", expert.sketch, turned, [], {})
    typed("publish", tmp_path / "turned")
    told = typed("public", launch_data, release_directory, code=2)
    assert told.startswith("labels: ")
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


def test_the_plan_is_shown_and_changed(typed, ready, registry, releases):
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
