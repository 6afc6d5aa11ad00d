"""Facts of every kind for attempts to improve, plausible or not."""

from random import Random

from fedhw.improvement.actions import (
    Action,
    Answered,
    AskForEvaluation,
    CandidateMade,
    MakeCandidate,
    Progress,
    Publish,
    Result,
    RollBack,
    RolledBack,
    RoundEnded,
    TakeRound,
)
from fedhw.improvement.attempt import Attempt, Facts, Newest
from fedhw.improvement.plan import Plan
from fedhw.improvement.verdicts import Outcome, Verdict
from fedhw.privacy.estimate import Estimate
from fedhw.privacy.window_estimates import WindowEstimates

NAMES = tuple(f"pen-{number}" for number in range(12))
PLAN = Plan(rounds=2, noise=1.0, cohort=8, survivors=4, participations=2, canary=0.5)
HOUR = 3600


def begun(plan: Plan = PLAN) -> Attempt:
    return Attempt(number=1, parent=3, plan=plan, since=1000.0 * HOUR)


def estimates(rng: Random, *names: str) -> list[Estimate]:
    return [
        Estimate(name, None, rng.choice([-0.1, *[0.5] * 6]), rng.choice([0.001, 0.1]), 9, "share")
        for name in names
    ]


def window(rng: Random, number: int) -> WindowEstimates | None:
    if rng.random() < 0.2:
        return None
    names = ("ge_accuracy", "moe_accuracy", "samples")
    whole, parent, newest = (estimates(rng, *names) for _ in range(3))
    by_release = {"v3-00000000": parent, "v4-00000000": newest}
    shown = {name: some for name, some in by_release.items() if rng.random() < 0.8}
    return WindowEstimates(number, (number + 1) * HOUR, 9, whole, shown)


def result_of(rng: Random, action: Action | None) -> Result | None:
    """What an action may come to; None where that is lost."""
    match action:
        case TakeRound(devices):
            paid = tuple(rng.sample(devices, rng.randint(0, len(devices))))
            if rng.random() < 0.3:
                return RoundEnded(paid, 1.0, reason="keys: too few")
            return RoundEnded(paid, 1.0, len(paid), 0.5)
        case MakeCandidate():
            return CandidateMade("v0-00000001", Verdict(rng.choice([*Outcome][1:]), "so it is"))
        case AskForEvaluation(devices):
            return Answered({one: rng.choice([*Progress]) for one in devices[1:]})
        case RollBack(_, reason):
            return RolledBack(reason)
    return None


def facts_for(
    rng: Random, attempt: Attempt, action: Action | None = None, result: Result | None = None
) -> Facts:
    """Facts that may be those of an attempt, or of none that there can be."""
    own = attempt.version or attempt.parent
    version = own + (action == Publish()) if rng.random() < 0.97 else rng.randint(1, 9)
    now = attempt.since + rng.choice([1, 90, *[HOUR, 3 * HOUR] * 4, 9 * HOUR, -HOUR])
    return Facts(
        now=now,
        newest=Newest(
            version, f"v{version}-00000000", rng.choice([None, 1, 3]), rng.random() < 0.8
        ),
        online=tuple(rng.sample(NAMES, rng.choice([0, 3, 6, 12]))),
        devices=rng.choice([3, 12, 1000]),
        window_seconds=HOUR,
        minimum_cohort=3,
        rounds_done=sum(each.summed is not None for each in attempt.rounds),
        round_rho=0.25,
        shadow_reports=rng.randint(0, 12),
        shadow=rng.choice([None, estimates(rng, "ge_gain", "gain")]),
        since_asked=rng.choice([0.0, 60.0]),
        parent_name="v3-00000000",
        estimates=window(rng, int(now // HOUR) - rng.randint(0, 2)),
        result=result,
    )
