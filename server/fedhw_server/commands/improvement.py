"""`fedhw server public`, `improve` and `improvement`: attempts to improve the newest release."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedhw.system.clock import DAY_SECONDS
from fedhw.system.console import DATA_HELP, MAX_SEED, out, say
from fedhw_server.commands.operator_options import HomeOption, JsonOption, newest_release, opened

if TYPE_CHECKING:
    from fedhw.improvement.plan import Plan
    from fedhw.release.release import Release
    from fedhw_server.store.fleet import Fleet


def public(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    release: Annotated[Path, typer.Argument(help="The release that was trained on the data.")],
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The seed of train-expert, for synthetic data.")
    ] = 0,
    home: HomeOption = None,
) -> None:
    """Set the public data for rehearsal in improvements and for the validation of candidates.

    For example: fedhw server public writers.npz release
    """
    with opened(home) as (place, _):
        from fedhw.data.sources import load_source
        from fedhw.improvement.public import Public
        from fedhw.release.release import Release

        newest = place.registry.release(newest_release(place).version)
        given = Public.of(load_source(data, seed), Release.load(release))
        newest.check_fits(given.rehearsal)
        given.save(place.public)
    say(f"{len(given.rehearsal)} observations to rehearse, {len(given.validation)} to judge by")


def improve(
    home: HomeOption = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the attempt in flight.")] = False,
) -> None:
    """Begin an attempt to improve the newest release, by the plan.

    For example: fedhw server improve
    """
    with opened(home) as (place, fleet):
        from fedhw.improvement.public import Public

        attempts = fleet.attempts
        if stop:
            attempts.stop()
            say("the attempt ends after what it does now; a release that is rolled out goes back")
            return
        newest = newest_release(place)
        Public.load(place.public)
        attempts.plan.check_fleet(fleet.members.enrolled)
        attempts.begin(newest.version, "asked for by hand")
    say(f"{newest.name} is to be improved; fedhw server releases says how far it is")


def improvement(
    home: HomeOption = None,
    automatic: Annotated[
        bool | None,
        typer.Option("--automatic/--by-hand", help="Begin by the trigger below, or only by hand."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of an attempt.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier of a round's sum.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Most devices asked in a round.")] = None,
    survivors: Annotated[int | None, typer.Option(help="Least devices in a round's sum.")] = None,
    participations: Annotated[
        int | None, typer.Option(help="Most rounds of an attempt that ask the same device.")
    ] = None,
    canary: Annotated[
        float | None, typer.Option(help="Share of the online devices that evaluate a candidate.")
    ] = None,
    error: Annotated[
        float | None, typer.Option(help="Trigger: error rate of the global expert.")
    ] = None,
    rise: Annotated[
        float | None,
        typer.Option(help="Trigger: rise of the share of open gates since the last attempt."),
    ] = None,
    online: Annotated[int | None, typer.Option(help="Least devices online.")] = None,
    pause_days: Annotated[
        float | None, typer.Option(help="Least days since the last attempt.")
    ] = None,
    epsilon_in_all: Annotated[
        float | None, typer.Option(help="Most epsilon that all attempts may cost a device.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plan for attempts to improve, and change what is given.

    For example: fedhw server improvement
    """
    pause = None if pause_days is None else pause_days * DAY_SECONDS
    when = _given(error=error, rise=rise, cohort=online, pause=pause, epsilon=epsilon_in_all)
    how = _given(automatic=automatic, rounds=rounds, noise=noise, cohort=cohort)
    how |= _given(survivors=survivors, participations=participations, canary=canary)
    with opened(home) as (place, fleet):
        newest, plan = newest_release(place), fleet.attempts.plan
        if how or when:
            plan = replace(plan, **how, trigger=replace(plan.trigger, **when))
            fleet.attempts.agree(plan)
        costs = _costs(plan, fleet, place.registry.release(newest.version))
    if as_json:
        out.print_json(json.dumps(json.loads(plan.to_json()) | costs))
    else:
        out.print(_table(plan, costs))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _costs(plan: "Plan", fleet: "Fleet", release: "Release") -> dict[str, Any]:
    """Return the privacy costs: of one attempt, and of all so far for the device in most rounds."""
    from fedhw.privacy.discrete_gaussian import epsilon_of

    delta = fleet.policy.delta
    rho = plan.rho(sum(each.numel() for each in release.expert.parameters()))
    epsilon = {"attempt": epsilon_of(rho, delta), "spent": epsilon_of(fleet.attempts.rho, delta)}
    return {"epsilon": epsilon, "delta": delta}


def _table(plan: "Plan", costs: dict[str, Any]) -> Table:
    shown = Table("attempts to improve", "")
    trigger, epsilon = plan.trigger, costs["epsilon"]
    for name, value in {
        "begin": "when the statistics tell for it" if plan.automatic else "by hand",
        "rounds": f"{plan.rounds}, noise {plan.noise:g}",
        "a round": f"asks {plan.cohort} devices and needs {plan.survivors}",
        "a device": f"is asked for {plan.participations} rounds at most",
        "a candidate": f"is tried by {plan.canary:.0%} of the devices online",
        "epsilon of one": f"{epsilon['attempt']:.2f} at delta {costs['delta']:g}",
        "epsilon spent": f"{epsilon['spent']:.2f} by the device that was in most",
        "begins where": f"the global expert is wrong on {trigger.error:.0%}, or gates open on "
        f"{trigger.rise:.0%} more",
        "and": f"{trigger.cohort} devices are online, {trigger.pause / DAY_SECONDS:g} days after "
        f"the last, below epsilon {trigger.epsilon:g} in all",
    }.items():
        shown.add_row(name, value)
    return shown
