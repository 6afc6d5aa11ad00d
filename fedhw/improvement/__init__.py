"""Improving the global expert over many people's corrections, of which nobody sees but their sum.

    while the statistics do not say that it would help: wait            plan, trigger
    repeat for some rounds:                                             improvement
        each device learns a little and adds it to the sum              local_update, contribution
        the server takes a step along it, and one for the public        server_optimiser, public
    a candidate is validated on public data, then evaluated by devices  candidate, verdicts
    it goes to 1 %, 10 % and all devices, or back                       rollout, verdicts

What is next is decided in `attempt`, a state machine that a coordinator and a simulation run alike.
Where sums are not masked, `robust` withstands who lies. Nothing here knows a network.
"""
