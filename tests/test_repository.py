"""The borders between the folders, and what the whole tree promises."""
import ast
import importlib
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from shared_data.settings import parse_options

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = {"snet_neck_ln", "lung_nodule_nasnet", "retroln_nnunet", "focusnet_v2", "sepnet"}
SHARED = ("shared_data", "shared_results", "shared_torch")  # each imports those before it alone
FILES = [path for folder in [*PROJECTS, *SHARED] for path in (ROOT / folder).rglob("*.py")]


def run(node):
    """The nodes below one, without what only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from run(child)


def imported(path):
    """Top-level packages that a file imports anywhere."""
    for node in run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_borders(path):
    names, owner = set(imported(path)), path.relative_to(ROOT).parts[0]
    assert not names & (PROJECTS - {owner})
    assert not names & {"torchvision", "timm", "pickle"}
    if owner in SHARED:
        assert not names & {"keras", "tensorflow", *SHARED[SHARED.index(owner) + 1:]}
    if owner in SHARED[:2]:
        assert not names & {"torch", "monai", "lightning_fabric"}
    if path.name in ("networks.py", "losses.py"):
        assert names <= {"torch", "keras", "math", "typing", "collections"}  # the last two: for annotations
    if path.name == "config.py":
        assert names <= {*sys.stdlib_module_names, "shared_data"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("target, code, word", [("help", 0, "make demo"), ("train-nothing", 2, "No rule")])
def test_make(target, code, word):
    done = subprocess.run(["make", "-C", str(ROOT), target], capture_output=True, text=True)
    assert done.returncode == code and word in done.stdout + done.stderr


@pytest.mark.parametrize("project, words, commands", [
    ("snet", ["PREPARE_ARGS=--merge-labels"], [
        "process_data.data_process_lymph_node --prepared-dir /p u --data-dir /my cohort --merge-labels",
        "process_data.data_parser --prepared-dir /p u", "train --prepared-dir /p u --epochs 3 --devices 2"]),
    ("focusnet", ["CROP_ARGS=--split names"], [
        "data_preprocess.data_preprocess --prepared-dir /p u --data-dir /my cohort",
        "data_preprocess.crop_data --prepared-dir /p u --split names",
        "train --prepared-dir /p u --epochs 3 --devices 2"]),
    ("lung", ["SPLIT_ARGS=--split-seed 1"], [
        "preprocess --prepared-dir /p u --data-dir /my cohort", "table --prepared-dir /p u",
        "slice_idx --prepared-dir /p u --split-seed 1", "train --prepared-dir /p u --epochs 3 --devices 2"])])
def test_make_gives_each_step_what_it_reads(project, words, commands):
    done = subprocess.run(["make", "-n", "-C", str(ROOT), f"train-{project}", "DATA=/my cohort", "PREPARED=/p u",
                           "GPUS=2", "ARGS=--epochs 3", *words], capture_output=True, text=True)
    given = re.findall(r"python -m \w+\.(?!pip)([^|\n]*)", done.stdout)
    assert [" ".join(line.replace('"', "").rstrip("\\").split()) for line in given] == commands


@pytest.mark.parametrize("words, message", [
    (["prepare-snet", "DATA=/x", "ARGS=--lr 7"], "prepare-snet takes PREPARE_ARGS=..., not ARGS=..."),
    (["train-snet", "PREPARE_ARGS=--merge-labels"], "are for preparing: give DATA=folder, too")])
def test_make_refuses_what_no_step_would_get(words, message):
    done = subprocess.run(["make", "-n", "-C", str(ROOT), *words], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr


def test_the_scripts_for_clusters_are_sound():
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"))
    for block in blocks:
        assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).stderr == ""
    assert len(blocks) == 3


@pytest.mark.parametrize("project", sorted(PROJECTS))
def test_every_setting_is_an_option_with_a_help_text_and_its_default(project, capsys):
    config = importlib.import_module(f"{project}.config").Config
    with pytest.raises(SystemExit):
        parse_options(config, ["--help"])
    shown = re.sub(r"\{[^}]*\}", "", " ".join(capsys.readouterr().out.split()))
    for field in fields(config):
        _, *text = re.split(rf" --(?:no-)?{field.name.replace('_', '-')} ", shown)
        assert text and re.search("[a-z]{2}", text[-1].split(" --")[0]), field.name
    assert re.search(r"\(authors\) \[[\d.]+\]", shown)


@pytest.mark.parametrize("project", sorted(PROJECTS))
def test_every_setting_is_read_by_some_step_and_no_step_takes_all(project):
    module = importlib.import_module(f"{project}.config")
    steps = {script: {field.name for field in fields(options)} for script, options in module.STEPS.items()}
    every = {field.name for field in fields(module.Config)}
    assert set().union(*steps.values()) >= every
    assert all(every - names for names in steps.values())


@pytest.mark.parametrize("project", sorted(PROJECTS))
def test_readmes_have_one_order_and_name_the_settings_as_they_are(project):
    text = (ROOT / project / "README.md").read_text(encoding="utf-8")
    order = ["## Try it", "## Use it", "| authors | here |", "**Data in.**", "**Prepared.**", "**Settings.**",
             "## Results", "**Parity with the authors' code**", "**Speed", "## Differences from the original",
             "| theirs | ours | to get theirs back |"]
    places = [text.find(part) for part in order]
    assert -1 not in places and places == sorted(places)
    config = importlib.import_module(f"{project}.config").Config()
    for options, defaults in re.findall(r"^\| (`--[^|]+`) \| ([^|]+) \|", text, re.MULTILINE):
        names = re.findall(r"--([\w-]+)", options)
        assert names
        for name, shown in zip(names, defaults.split(", ")):
            value = getattr(config, name.replace("-", "_"))
            values = value if isinstance(value, tuple) else (value,)
            if re.fullmatch(r"[\d. e-]+", shown):
                assert [float(word) for word in shown.split()] == list(values), f"--{name}"
