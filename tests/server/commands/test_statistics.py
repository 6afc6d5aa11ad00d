"""Statistics, as the operator sees them."""

import json

from tests.server.commands.conftest import report
from tests.server.conftest import past


def test_statistics(typed, ready, published):
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


def test_nothing_is_shown_of_too_few(typed, ready, published):
    report(ready, published.name, 1)
    sentence = "statistics: no window has reports of 2 devices, and nothing is shown of fewer; wait"
    assert typed("statistics", code=2).startswith(sentence)
    assert typed("statistics", "--json", code=2).startswith(sentence)
    report(ready, published.name, 3)
    assert typed("statistics", "--window", past(5), code=2).startswith(sentence)
