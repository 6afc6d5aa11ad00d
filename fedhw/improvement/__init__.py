"""Improvement of the global expert from the corrections of many people; only their sum is seen.

    wait until the statistics show that an improvement would help        plan, trigger
    repeat for some rounds:                                              improvement
        each device learns a little and adds its update to the sum       local_update, contribution
        the server steps along it, and along the update on public data   server_optimiser, public
    a candidate is validated on public data, then evaluated by devices   candidate, verdicts
    it is published for 1 %, 10 % and all devices, or rolled back        rollout, verdicts

`attempt` is the state machine that decides what comes next; a coordinator and a simulation both run
it. `robust` limits the effect of dishonest devices where sums are not masked. No module here uses
a network.
"""
