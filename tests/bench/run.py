"""Every benchmark of the projects that are here, as ratios within this run: `make bench`.

    python -m tests.bench.run [module ...]

Prints one table and saves it as tests/bench/results.json.
"""
import importlib
import json
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main():
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*_*.py"))
    results = {}
    for name in names:
        results[name] = importlib.import_module(f"tests.bench.{name}").run()
        for what, ratio in results[name].items():
            print(f"{name:24s} {what:68s} {ratio:8.2f}", flush=True)
    (FOLDER / "results.json").write_text(json.dumps({"cores": os.cpu_count(), "ratios": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
