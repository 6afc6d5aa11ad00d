"""Improving the global expert over many people's corrections, of which nobody sees but their sum.

    while the statistics do not say that it would help: wait            trigger
    repeat for some rounds:                                             improvement
        each device learns a little and adds it to the sum              local_update, contribution
        the server takes a step along it, and one for the public        server_optimiser, public
    a candidate is proved on public data, then by a canary share        candidate
    it goes to 1 %, 10 % and all devices, or back                       rollout

Where sums are not masked, `robust` withstands who lies. The network is none of this room's affair:
a simulation and a coordinator run the same code.
"""
