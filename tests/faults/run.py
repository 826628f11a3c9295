"""Bad files, bad settings, full disks, folders without rights and kills, for the scripts of the projects given that
prepare, train, score and predict.

    python -m tests.faults.run [--quick] [--only kills] project ...       `make test-faults` runs all

Counts what was tried, the answers that were one clear line with the exit code promised, and the files that were left
half written under a final name (must be 0). Exit code 1 when any answer was not clear or any file was lost.
"""
import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import fields
from itertools import product
from pathlib import Path

from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.settings import parse_options
from shared_data.volume import read_volume, write_volume
from tests.faults.attempt import attempt, files_in, kill_a_worker
from tests.faults.bad_files import DAMAGES, bad_checkpoints, bad_cts
from tests.faults.projects import PROJECTS
from tests.faults.whole import half_written

GROUPS = ("bad_settings", "bad_scans", "bad_prepared", "bad_networks", "faulty_machine", "kills", "worker_kills",
          "bad_folders")  # methods of Suite


class Suite:
    """One project, its good runs, and what has been counted so far."""

    def __init__(self, name, folder, quick, seed):
        self.project, self.folder, self.quick = PROJECTS[name](), folder, quick
        self.count, self.unclear, self.half, self.random = Counter(), [], [], random.Random(seed)
        self.raw, self.prepared, self.run_dir = (folder / part for part in ("raw", "prepared", "run"))
        self.project.write_cohort(self.raw)
        self.seconds = {}
        for module, argv in self.project.prepare(self.raw, self.prepared) + self.project.train(self.prepared,
                                                                                               self.run_dir):
            start = time.perf_counter()
            outcome = attempt(module, argv)
            if outcome.code:
                raise SystemExit(f"{module} does not work at all: {' '.join(outcome.lines)}")
            self.seconds[module] = time.perf_counter() - start
        self.checkpoint = self.run_dir / self.project.checkpoint

    def expect(self, kind, what, outcome, code=2, word=""):
        """Count one attempt: a clear answer is the exit code promised and, unless that is 0, one line with `word`."""
        self.count[kind] += 1
        said = [line for line in outcome.lines if not line.startswith("note ")]
        clear = len(said) == 1 and word in said[0] and "fault of the program" not in said[0] if code else not said
        if outcome.code != code or not clear:
            self.unclear.append(f"{kind}: {what}: exit {outcome.code}, {' | '.join(outcome.lines)[-300:] or 'silent'}")

    def expect_whole(self, kind, what, folder):
        for path in half_written(folder):
            self.half.append(f"{kind}: {what}: {path}")

    def bad_settings(self):
        """Every field of Config with values of the wrong kind."""
        config = importlib.import_module(self.project.config).Config
        for field in fields(config):
            kind = str(field.type)
            values = ["nan", "inf", "-inf", "many"] if "float" in kind else ["many", "1.5"] if "int" in kind else (
                ["anything"] if "Literal" in kind else [])
            for value in values:
                self.count["settings"] += 1
                try:
                    parse_options(config, [f"--{field.name}", *[value] * (3 if "tuple" in kind else 1)])
                except InputError as error:
                    if "\n" in str(error):
                        self.unclear.append(f"settings: --{field.name} {value}: several lines")
                else:
                    self.unclear.append(f"settings: --{field.name} {value}: accepted")
        for module, argv in self.all_commands():
            self.expect("settings", f"{module} --no-such-option",
                        attempt(module, [*argv, "--no-such-option", "1"]), word="unknown option --no-such-option")

    def all_commands(self):
        out = self.folder / "out"
        return [*self.project.prepare(self.raw, self.prepared), *self.project.train(self.prepared, self.run_dir),
                self.project.test(self.prepared, self.run_dir, out),
                self.project.predict(self.project.ct_of(self.raw), self.checkpoint, out / "mask.nii.gz")]

    def bad_scans(self):
        """Predict each; and a cohort in which one patient's CT or mask is like that."""
        spoiled = bad_cts(self.project.ct_of(self.raw), self.folder / "bad")
        for what, path in spoiled.items():
            target = self.folder / "predicted" / "mask.nii.gz"
            self.expect("scans", f"predict, {what}", attempt(*self.project.predict(path, self.checkpoint, target)),
                        word=path.name)
            if target.exists():
                self.half.append(f"scans: predict, {what}: {target}")
        for what, (spoil, code) in self.some(self.project.spoil(self.raw, spoiled).items(), 6):
            raw, prepared = self.folder / "spoiled", self.folder / "spoiled prepared"
            shutil.copytree(self.raw, raw)
            spoil(raw)
            outcome = attempt(*self.project.prepare(raw, prepared)[0])
            self.expect("cohorts", what, outcome, code=code, word="skipped")
            self.expect_whole("cohorts", what, prepared)
            shutil.rmtree(raw)
            shutil.rmtree(prepared, ignore_errors=True)

    def bad_prepared(self):
        """Train on prepared files that are damaged."""
        prepared, run_dir = self.folder / "damaged", self.folder / "run on damaged"
        for pattern, what in self.some(product(self.project.trained_on, DAMAGES), 3):
            shutil.copytree(self.prepared, prepared)
            path = min(prepared.rglob(pattern))
            path.write_bytes(DAMAGES[what](path.read_bytes()))
            outcome = attempt(*self.project.train(prepared, run_dir)[0])
            self.expect("prepared", f"{path.name}, {what}", outcome, code=1 if outcome.code == 1 else 2,  # 1: skipped
                        word=path.name)
            shutil.rmtree(prepared)
            shutil.rmtree(run_dir, ignore_errors=True)

    def bad_networks(self):
        ct, out = self.project.ct_of(self.raw), self.folder / "predicted" / "mask.nii.gz"
        for what, path in bad_checkpoints(self.checkpoint, self.folder / "bad networks").items():
            self.expect("checkpoints", what, attempt(*self.project.predict(ct, path, out)), word=path.name)

    def faulty_machine(self):
        """Disks that fill at some point, and folders without rights."""
        biggest = max(len(content) for content in files_in(self.folder).values())
        for what in ("prepare", "train", "test", "predict"):
            for _ in range(1 if self.quick else 5):
                limit = int(2000 * (biggest / 2000) ** self.random.random())  # what is said needs room too
                out = self.folder / "full disk"
                outcomes = [attempt(module, argv, limit=limit) for module, argv in self.into(what, out)]
                failed = next((outcome for outcome in outcomes if outcome.code), None)
                if failed:
                    self.expect("full disk", f"{what}, {limit} bytes", failed)
                self.expect_whole("full disk", f"{what}, {limit} bytes", out)
                shutil.rmtree(out, ignore_errors=True)
            readonly = self.folder / "readonly"
            readonly.mkdir(mode=0o555)
            module, argv = self.into(what, readonly / "new")[0]
            self.expect("no rights", what, attempt(module, argv, heed_rights=True), word="Permission denied")
            readonly.rmdir()

    def into(self, what, out):
        """The commands of one stage with everything written below `out`."""
        return {"prepare": lambda: self.project.prepare(self.raw, out),
                "train": lambda: self.project.train(self.prepared, out),
                "test": lambda: [self.project.test(self.prepared, self.run_dir, out)],
                "predict": lambda: [self.project.predict(self.project.ct_of(self.raw), self.checkpoint,
                                                         out / "mask.nii.gz")]}[what]()

    def kills(self):
        """SIGKILL at a random moment, then the same command again: as if nothing had happened."""
        for what, good in (("prepare", self.prepared), ("train", self.run_dir)):
            for _ in range(1 if self.quick else 10):
                out = self.folder / "killed"
                for module, argv in self.into(what, out):
                    after = self.random.uniform(0, self.seconds[module])
                    moment = f"{module}, {after:.2f} s"
                    attempt(module, argv, kill_when=lambda seconds: seconds > after)
                    self.expect_whole("kills", moment, out)
                    going_on = ["--resume"] if what == "train" and any(out.glob(self.project.last)) else []
                    again = attempt(module, [*argv, *going_on])
                    self.count["kills"] += 1
                    if again.code:
                        self.unclear.append(f"kills: {moment}: then {' | '.join(again.lines)[-300:]}")
                same = (files_in(out) == files_in(good) if what == "prepare" else
                        (out / self.project.history).read_bytes() == (good / self.project.history).read_bytes())
                if not same:
                    self.half.append(f"kills: {moment}: another result than uninterrupted")
                shutil.rmtree(out)

    def worker_kills(self):
        """SIGKILL to a worker process at a random moment of preparing: its case is tried again, nothing is missing."""
        out, seconds = self.folder / "worker killed", {}
        for number in range(2 if self.quick else 21):
            for module, argv in self.into("prepare", out):
                several = ["--parallel"] if module.startswith("retroln") else ["--workers", "2"]
                argv = [*argv, *(several if several[0] == "--parallel" or "--workers" in argv else [])]
                if number == 0:
                    start = time.perf_counter()
                    attempt(module, argv)
                    seconds[module] = time.perf_counter() - start
                    continue
                after = self.random.uniform(0, seconds[module])
                outcome = attempt(module, argv, kill_when=lambda passed: passed > after, kill=kill_a_worker)
                self.expect("worker kills", f"{module}, {after:.2f} s", outcome, code=0)
            if files_in(out) != files_in(self.prepared):
                self.half.append(f"worker kills: {module}: another result than uninterrupted")
            shutil.rmtree(out)

    def bad_folders(self):
        """Predict a folder of good and bad CTs; with a SIGKILL at a random moment, then again; with one to a worker."""
        cts, out, expected = self.folder / "cts", self.folder / "predicted cts", None
        bad_cts(self.project.ct_of(self.raw), cts)
        write_volume(read_volume(self.project.ct_of(self.raw)), cts / "P2.nii.gz")
        module, argv = self.project.predict(cts, self.checkpoint, out)
        for number in range(3 if self.quick else 21):
            start = time.perf_counter()
            if number == 0:
                outcome, after = attempt(module, argv), 0
                seconds = time.perf_counter() - start
            else:
                after = self.random.uniform(0, seconds)
                if number % 2 or self.project.stand_in:
                    attempt(module, argv, kill_when=lambda passed: passed > after)
                    self.expect_whole("folders", f"killed after {after:.2f} s", out)
                    outcome = attempt(module, argv)
                else:
                    outcome = attempt(module, [*argv, "--workers", "2"], kill=kill_a_worker,
                                      kill_when=lambda _: any(out.glob(".done/*.json")))
            self.count["folders"] += 1
            if outcome.code != 1:
                self.unclear.append(f"folders: {after:.2f} s: exit {outcome.code}, {' | '.join(outcome.lines)[-300:]}")
                continue
            rows = read_table(out / "cases.csv", ["case", "status", "reason"])
            reasons = {row["case"]: row["reason"] for row in rows}
            said = [line for line in outcome.lines if not line.startswith(("note: ", "dashboard: "))]
            if len(said) != sum(map(bool, reasons.values())) or "fault of the program" in "".join(reasons.values()):
                self.unclear.append(f"folders: {after:.2f} s: {' | '.join(said)[-300:]}")
            result = reasons, (out / "P2.nii.gz").read_bytes()
            expected = expected or result
            if result != expected:
                self.half.append(f"folders: {after:.2f} s: another result than uninterrupted")
            self.expect_whole("folders", f"{after:.2f} s", out)
            shutil.rmtree(out)

    def some(self, items, number):
        items = list(items)
        return self.random.sample(items, min(number, len(items))) if self.quick else items


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="+", choices=PROJECTS)
    parser.add_argument("--quick", action="store_true", help="a few of each kind")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these groups alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # tensors this small gain nothing from more
    failed = False
    for name in options.projects:
        with tempfile.TemporaryDirectory() as folder:
            suite = Suite(name, Path(folder), options.quick, options.seed)
            for group in options.only:
                getattr(suite, group)()
        total = sum(suite.count.values())
        print(f"{name}: {total} tried ({', '.join(f'{kind} {n}' for kind, n in suite.count.items())}), "
              f"{total - len(suite.unclear)} clear, {len(suite.half)} lost or half written", flush=True)
        for line in suite.unclear + suite.half:
            print(f"  {line}", flush=True)
        failed |= bool(suite.unclear or suite.half)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
