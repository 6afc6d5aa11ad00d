"""What a character costs on a device: the figures of `fedhw cost` as Markdown.

fedhw cost RELEASE --json > cost.json
python benchmarks/cost.py cost.json
"""

import json
import sys
from pathlib import Path

from tables import show


def main(path: Path) -> None:
    show(
        ["part", "parameters", "bytes", "MACs", "energy, nJ", "share of the GE's energy"],
        [
            [
                name,
                *(f"{part[key]:,}" for key in ("parameters", "bytes", "macs")),
                f"{part['nanojoules']:,.1f}",
                f"{part['energy_share']:.2%}",
            ]
            for name, part in json.loads(path.read_text()).items()
        ],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
