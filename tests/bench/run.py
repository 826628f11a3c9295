"""All benchmarks of the projects present, as ratios within this run: `make bench`.

    python -m tests.bench.run [module ...]

Prints one table and saves it in tests/bench/results.json. Leaves out modules that need the other environment (lung_*
run in .venv-keras, all others in .venv), and those that need data or many minutes: they have a command of their own
instead of run().
"""
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main():
    keras = importlib.util.find_spec("keras") is not None
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*_*.py"))
    names = [name for name in names if name.startswith("lung_") == keras]
    saved = FOLDER / "results.json"
    results = json.loads(saved.read_text())["ratios"] if saved.exists() else {}
    for name in names:
        module = importlib.import_module(f"tests.bench.{name}")
        if not hasattr(module, "run"):
            continue
        results[name] = module.run()
        for what, ratio in results[name].items():
            print(f"{name:24s} {what:68s} {ratio:8.2f}", flush=True)
        saved.write_text(json.dumps({"cores": os.cpu_count(), "ratios": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
