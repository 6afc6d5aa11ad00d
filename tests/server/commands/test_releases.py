"""Releases, published, taken back and listed by the operator."""

import json
import re
from dataclasses import replace

from fedhw.improvement.attempt import Decision, Stage
from tests.server.conftest import Pen


def test_publish_and_roll_back(typed, registry, releases):
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


def test_what_came_of_attempts_is_shown(typed, ready, registry, releases):
    registry.publish(releases[0])
    attempts = ready.attempts
    attempts.begin(1, "wrong on [much]")
    gone = replace(attempts.current, stage=Stage.REJECTED, candidate="v0-0123abcd")
    attempts.keep(gone, Decision(1, gone.since, "rejected", "worse on public data"))
    attempts.begin(1, "again")
    newest = registry.publish(releases[1])
    for node in range(50):
        ready.members.set_node(Pen(f"pen-{node}").join(ready).name, node)
    attempts.keep(replace(attempts.current, stage=Stage.ROLL_OUT, version=2))
    shown = typed("releases")
    for part in ("wrong on [much]", "v0-0123abcd", "rejected", "worse on public data", "version 2"):
        assert part in shown
    assert f"{newest.name} is for 8% of the devices so far" in shown
    assert json.loads(typed("releases", "--json"))["share"] == 0.08
