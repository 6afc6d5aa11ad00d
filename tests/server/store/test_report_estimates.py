from fedhw.privacy.estimate import estimate
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Evaluation, make_report
from fedhw.system.clock import SettableClock
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.reports import FILLING_SHARE, Accepted
from tests.server.conftest import POLICY, START, Pen, past

OLD, NEW = "v1-0123abcd", "v2-4567cdef"


def report(fleet, number, window, release=OLD):
    made = Pen(f"pen-{number}").report(release, window)
    fleet.reports.count([Accepted(made, f"{number}")])


def test_there_are_none_of_too_few(fleet):
    assert fleet.reports.estimates(62) is None
    report(fleet, 1, past())
    assert fleet.reports.estimates(62) is None
    assert fleet.reports.estimates(62, past()) is None


def test_they_are_of_the_newest_window_that_may_be_shown(fleet):
    for number in range(3):
        report(fleet, number, past(3))
    for number in range(2):
        report(fleet, number, past(2))
    report(fleet, 0, past(1))
    found = fleet.reports.estimates(62)
    assert (found.window, found.cohort) == (past(2), 2)
    assert found.ended == (past(2) + 1) * POLICY.window
    assert found.estimates == estimate(fleet.reports.sums(past(2))[OLD], 62, 2)
    assert found.by_release == {OLD: found.estimates}
    assert fleet.reports.estimates(62, past(3)).cohort == 3
    assert fleet.reports.estimates(62, past(1)) is None
    assert fleet.reports.estimates(62, past(9)) is None


def test_a_release_of_too_few_is_in_the_whole_alone(fleet):
    for number in range(3):
        report(fleet, number, past(), NEW if number == 0 else OLD)
    found = fleet.reports.estimates(62)
    assert found.cohort == 3
    assert found.by_release == {}  # or what is left of the whole would be that one device
    report(fleet, 3, past(), "v3-4567cdef")
    found = fleet.reports.estimates(62)
    assert list(found.by_release) == [OLD]
    assert {each.cohort for each in found.by_release[OLD]} == {2}


def test_one_that_is_filling_gives_way_to_an_older_one(home):
    clock = SettableClock(START)
    fleet = Fleet(home.database, clock)
    fleet.settings.agree(**vars(POLICY))
    clock.set_wall((past(1) + 1 + FILLING_SHARE / 2) * POLICY.window)
    for number in range(2):
        report(fleet, number, past(1))
    assert fleet.reports.estimates(62).window == past(1)
    for number in range(2):
        report(fleet, number, past(3))
    assert fleet.reports.estimates(62).window == past(3)
    assert fleet.reports.estimates(62, past(1)).window == past(1)
    clock.advance(FILLING_SHARE * POLICY.window)
    assert fleet.reports.estimates(62).window == past(1)
    fleet.close()


def test_they_say_what_the_devices_did(fleet):
    for number in range(200):
        report(fleet, number, past())
    true = {"active": 1, "ge_accuracy": 0.8, "moe_accuracy": 0.9, "gain": 0.1, "samples": 50}
    for each in fleet.reports.estimates(62).estimates:
        if each.name in true:
            low, high = each.interval(1 - 1e-6)
            assert low < true[each.name] < high
            assert high - low < 2 * abs(true[each.name]) or each.name == "samples"


def test_of_a_candidate_all_windows_count_together_and_apart_from_the_others(fleet):
    mechanism = GaussianMechanism(POLICY.epsilon, POLICY.delta)
    judged = Evaluation(200, 180, 160, 190, 174)
    for number in range(100):
        if number < 2:
            assert fleet.reports.shadow_estimates(NEW) is None
        made = make_report(judged, f"pen-{number}", past(1 + number % 3), NEW, mechanism)
        fleet.reports.count([Accepted(made, f"{number}")])
    found = {each.name: each for each in fleet.reports.shadow_estimates(NEW)}
    assert {each.cohort for each in found.values()} == {100}
    for name, gain in (("ge_gain", 0.1), ("gain", 0.08)):
        low, high = found[name].interval(1 - 1e-6)
        assert low < gain < high
        assert high - low < 0.4
    assert fleet.reports.estimates(62) is None
    assert fleet.reports.shadow_estimates(OLD) is None
    report(fleet, 1, past())
    report(fleet, 2, past())
    assert fleet.reports.estimates(62).cohort == 2
