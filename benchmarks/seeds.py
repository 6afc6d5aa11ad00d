"""Mean and spread over seeds of what `fedhw simulate --json` wrote.

python benchmarks/seeds.py figures-0.json figures-1.json figures-2.json
"""

import json
import statistics
import sys
from pathlib import Path

from tables import show, spread

FIGURES = {
    "custom_accuracy": "writer %",
    "custom_gain": "gain",
    "full_alphabet_gain": "full-alphabet gain",
    "generic_accuracy": "generic %",
    "generic_change": "change",
    "writers_hurt": "hurt %",
    "worst_writer_gain": "worst",
    "parameter_overhead": "parameters %",
    "mac_overhead": "MACs %",
}


def main(paths: list[Path]) -> None:
    runs = [json.loads(path.read_text()) for path in paths]
    rows = []
    for method in runs[0]["methods"]:
        found = [run["methods"][method] for run in runs]
        cells = [
            spread([f[key] for f in found], "+" if key.endswith(("gain", "change")) else "")
            for key in FIGURES
        ]
        rows.append([method, *cells, f"{statistics.mean(f['seconds'] for f in found):.1f}"])
    show(["method", *FIGURES.values(), "s"], rows)
    show(
        ["samples a writer", "gain of moe"],
        [[k, spread([run["curve"][k] for run in runs], "+")] for k in runs[0]["curve"]],
    )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
