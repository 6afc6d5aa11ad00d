"""Mean and spread over seeds of what `fedhw simulate --json` wrote, as a Markdown table.

python benchmarks/seeds.py figures-0.json figures-1.json figures-2.json
"""

import json
import statistics
import sys
from pathlib import Path

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


def spread(values: list[float], signed: bool) -> str:
    """Mean and standard deviation in percent or points."""
    mean = 100 * statistics.mean(values)
    deviation = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:{'+' if signed else ''}.1f} ± {deviation:.1f}"


def main(paths: list[Path]) -> None:
    runs = [json.loads(path.read_text()) for path in paths]
    print(f"| method | {' | '.join(FIGURES.values())} | s |")
    print("|---" * (len(FIGURES) + 2) + "|")
    for method in runs[0]["methods"]:
        found = [run["methods"][method] for run in runs]
        cells = [
            spread([f[key] for f in found], signed=key.endswith(("gain", "change")))
            for key in FIGURES
        ]
        seconds = statistics.mean(f["seconds"] for f in found)
        print(f"| {method} | {' | '.join(cells)} | {seconds:.1f} |")
    print("\n| samples a writer | gain of moe |\n|---|---|")
    for count in runs[0]["curve"]:
        print(f"| {count} | {spread([run['curve'][count] for run in runs], signed=True)} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
