"""`fedhw cost`: the cost of one observation on a device."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedhw.system.console import out


def cost(
    release: Annotated[Path, typer.Argument(help="Release directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what one character costs on a device: global expert, local expert, gate.

    For example: fedhw cost release
    """
    from fedhw.experts.cost import cost_of_gate, cost_of_global, cost_of_local
    from fedhw.experts.mixture import Mixture
    from fedhw.personalization.learner import Learner
    from fedhw.release.release import Release

    expert = Release.load(release).expert
    silent = Mixture.silent(expert, Learner().rank)
    costs = {
        "global expert": cost_of_global(expert),
        "local expert": cost_of_local(silent.local),
        "gate": cost_of_gate(silent.gate),
    }
    whole = costs["global expert"]
    figures = {
        name: {
            "parameters": part.parameters,
            "bytes": part.bytes,
            "macs": part.macs,
            "nanojoules": part.nanojoules,
            "parameter_share": part.parameters / whole.parameters,
            "mac_share": part.macs / whole.macs,
            "energy_share": part.nanojoules / whole.nanojoules,
        }
        for name, part in costs.items()
    }
    if as_json:
        out.print_json(json.dumps(figures))
        return
    shown = Table("part", "parameters", "bytes", "MACs", "energy, nJ", "share of the GE's energy")
    for name, part in costs.items():
        shown.add_row(
            name,
            f"{part.parameters:,}",
            f"{part.bytes:,}",
            f"{part.macs:,}",
            f"{part.nanojoules:,.1f}",
            f"{figures[name]['energy_share']:.2%}",
        )
    out.print(shown)
