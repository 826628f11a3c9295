"""The dataclass is the command line, the record, and refuses what it does not know."""
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from shared_data.errors import InputError
from shared_data.settings import (as_prepared, changed_config, check_started, config_from_dict, device_there,
                                  given_options, keep_config, load_config, note_constants, note_differences,
                                  parse_options, settings_of_run)


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 0.1  # step of 100 % (paper)
    patch_zyx: tuple[int, int] = (4, 8)  # voxels
    layout: Literal["one", "two"] = "one"  # which
    fast: bool = False  # quick
    folder: Path | None = None  # where

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"--learning-rate {self.learning_rate} must be positive.")


def test_every_field_is_an_option_of_its_type():
    words = "--learning-rate 0.5 --patch-zyx 1 2 --layout two --fast --folder a/b"
    assert parse_options(Settings, words.split()) == Settings(0.5, (1, 2), "two", True, Path.cwd() / "a/b")
    assert given_options(Settings, ["--fast"]) == {"fast": True}
    assert parse_options(Settings, []) == Settings()


def test_dashes_and_underscores_are_alike():
    assert parse_options(Settings, ["--learning_rate=0.5"]) == parse_options(Settings, ["--learning-rate", "0.5"])
    assert parse_options(Settings, ["--folder", "my_data--x_y"]).folder == Path.cwd() / "my_data--x_y"


def test_help_shows_comment_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(Settings, ["--help"], "What it does")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "What it does" in shown and "step of 100 % (paper) [0.1]" in shown and "voxels [4 8]" in shown


@dataclass(frozen=True)
class Commented:
    colour: str = "#ff0000"  # of the outline
    close: int = 1  #no space
    long: int = 2  # begins here
    # and goes on here
    several: tuple[str, ...] = (
        "a",  # not this one
        "# nor this")  # this one

    # Another group
    bare: int = 3
    # below what has none
    apart: int = 4  # alone

    # Not of the field above
    def method(self):  # nor this
        return 1


def test_help_texts_are_the_comments_however_they_are_written(capsys):
    with pytest.raises(SystemExit):
        parse_options(Commented, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("--colour STR of the outline [#ff0000] --", "--close INT no space [1] --",
                 "--long INT begins here and goes on here [2] --", "this one [a # nor this] --bare INT [3] --",
                 "--apart INT alone [4]"):
        assert text in shown
    assert "group" not in shown and "nor this -" not in shown and "Not of" not in shown and "not this" not in shown


@pytest.mark.parametrize("words, message", [
    ("--learning-rat 1", "unknown option --learning-rat (did you mean --learning-rate?). Valid: "),
    ("--learning-rat 1 --nothing --patch-zyz 1 2", "--nothing, --patch-zyz (did you mean --patch-zyx?). Valid: "),
    ("--nothing", "--patch-zyx"),
    ("1 2", "unknown option 1. Valid: "),
    ("--layout three", "'one', 'two'"),
    ("--learning-rate fast", "invalid float value: 'fast'"),
    ("--learning-rate 0", "must be positive"),
    ("--patch-zyx 1", "expected 2 arguments"),
    ("--learning-rate inf", "must be a finite number"),
    ("--folder=", "empty path"),
])
def test_unknown_options_and_impossible_values_name_the_valid_ones(words, message):
    with pytest.raises(InputError, match=".*") as error:
        parse_options(Settings, words.split())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_are_kept_once_and_differences_named(tmp_path):
    path = tmp_path / "run" / "config.json"
    config = Settings(patch_zyx=(1, 2), folder=Path("é x"))
    keep_config(config, path)
    assert load_config(Settings, path) == config
    keep_config(Settings(patch_zyx=(1, 2), folder=Path("other")), path, fixed=("patch_zyx",))
    with pytest.raises(InputError, match="patch_zyx 1 2 .now 3 4."):
        keep_config(Settings(patch_zyx=(3, 4), folder=Path("é x")), path)
    assert load_config(Settings, path) == config


def test_constants_of_the_code_are_kept_with_the_settings_and_differences_named(tmp_path, capsys):
    path = tmp_path / "config.json"
    keep_config(Settings(), path)
    keep_config(Settings(), path, constants={"CROP": (57, 457)})  # a folder of before records none
    path.unlink()
    keep_config(Settings(), path, constants={"CROP": (57, 457)})
    keep_config(Settings(), path, constants={"CROP": (57, 457), "NEW": 1})
    assert load_config(Settings, path) == Settings()
    with pytest.raises(InputError, match="other settings: CROP 57 457 .now 60 460.. Use the same"):
        keep_config(Settings(), path, constants={"CROP": (60, 460)})
    note_constants(None, {"CROP": (57, 457)}, "best.pt")
    note_constants({"CROP": [57, 457]}, {"CROP": (57, 457)}, "best.pt")
    assert capsys.readouterr().out == ""
    note_constants({"CROP": [57, 457]}, {"CROP": (60, 460)}, "best.pt")
    assert "note: best.pt: trained with CROP 57 457 (now 60 460)" in capsys.readouterr().out


def test_what_cases_were_prepared_with_is_said_where_the_network_has_something_else(capsys):
    note_differences(Settings(), Settings(fast=True), ("layout",), "config.json")
    assert capsys.readouterr().out == ""
    note_differences(Settings(), Settings(patch_zyx=(1, 2)), ("layout", "patch_zyx"), "config.json")
    assert capsys.readouterr().out == "note: config.json: prepared with patch_zyx 4 8 (the network: 1 2).\n"


def test_files_that_lack_a_setting_mean_what_was_meant_before_it_was_one():
    @dataclass(frozen=True)
    class Edited(Settings):
        points: tuple[float, ...] = (7.0, 8.0)  # a default that somebody edited
        UNRECORDED = {"points": (1.0, 2.0)}  # noqa: RUF012  ClassVar would make it a setting's type

    assert config_from_dict(Edited, {}, "config.json").points == (1, 2)
    assert config_from_dict(Edited, {"points": [3, 4]}, "config.json").points == (3, 4)


def test_later_steps_take_the_settings_of_preparation(tmp_path):
    path = tmp_path / "config.json"
    keep_config(Settings(patch_zyx=(1, 2)), path)
    given = {"fast": True}
    assert as_prepared(Settings, given, path, ("patch_zyx",)) == {"fast": True, "patch_zyx": (1, 2)}
    assert as_prepared(Settings, {"patch_zyx": (1, 2)}, path, ("patch_zyx",)) == {"patch_zyx": (1, 2)}
    with pytest.raises(InputError, match="prepared with patch_zyx 1 2 .now 3 4."):
        as_prepared(Settings, {"patch_zyx": (3, 4)}, path, ("patch_zyx",))


def test_a_resumed_run_changes_free_settings_only(tmp_path):
    assert changed_config(Settings(), {"fast": True}, ("fast",), "config.json").fast
    assert changed_config(Settings(), {"layout": "one"}, (), "config.json") == Settings()
    with pytest.raises(InputError, match="config.json.*layout one .now two."):
        changed_config(Settings(), {"layout": "two"}, ("fast",), "config.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"speed": 1}', '{"learning_rate": "x"}', '{"learning_rate": -1}',
                                     '{"patch_zyx": [1]}', '{"fast": "no"}', "\xff"])
def test_bad_settings_files_are_one_clear_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError) as error:
        load_config(Settings, tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_a_config_is_plain_json(tmp_path):
    keep_config(Settings(), tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["patch_zyx"] == [4, 8]


def test_a_tuple_of_any_length_takes_one_or_more_values():
    @dataclass(frozen=True)
    class Files:
        checkpoint: tuple[Path, ...]  # one or more

    files = parse_options(Files, ["--checkpoint", "/a", "/b", "/c"])
    assert files.checkpoint == (Path("/a"), Path("/b"), Path("/c"))
    assert config_from_dict(Files, {"checkpoint": ["/a", "/b", "/c"]}, "config.json") == files
    with pytest.raises(InputError, match="expected at least one argument"):
        parse_options(Files, ["--checkpoint"])


def test_a_device_is_chosen_where_it_is():
    available = {"cuda": False, "mps": True, "cpu": True}
    assert device_there("auto", available) == "mps" and device_there("cpu", available) == "cpu"
    with pytest.raises(InputError, match="--device cuda: none on this machine. Here: mps, cpu."):
        device_there("cuda", available)


def test_torchrun_and_the_settings_have_to_agree(monkeypatch):
    config = SimpleNamespace(devices=2, num_nodes=1)
    check_started(config)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_started(config)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="torchrun started 4 processes, --devices 2 --num-nodes 1 are 2"):
        check_started(config)


@dataclass(frozen=True)
class Run:
    run_dir: Path
    prepared_dir: Path = Path("nowhere")
    epochs: int = 3
    size: int = 8
    resume: bool = False


def test_a_run_goes_on_with_its_own_settings_and_a_new_one_with_those_of_its_cases(tmp_path):
    given = {"run_dir": tmp_path, "prepared_dir": tmp_path / "cases"}

    def settings(**more):
        return settings_of_run(Run, {**given, **more}, "last.pt", ("epochs", "resume", "run_dir", "prepared_dir"),
                               lambda path: {"run_dir": str(tmp_path), "size": 32}, ("size",))

    with pytest.raises(InputError, match="cases: no prepared cases in it"):
        settings()
    keep_config(Run(tmp_path, size=16), tmp_path / "cases" / "config.json")
    assert settings(epochs=5) == Run(tmp_path, tmp_path / "cases", 5, 16)
    with pytest.raises(InputError, match="no last.pt to go on from"):
        settings(resume=True)
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match="not prepared as when the run began: size 32 .now 16."):
        settings(resume=True, epochs=9)
    keep_config(Run(tmp_path, size=32), tmp_path / "same" / "config.json")
    given["prepared_dir"] = tmp_path / "same"
    assert settings(resume=True, epochs=9) == Run(tmp_path, tmp_path / "same", 9, 32, True)
    for more, message in (({}, "holds a run already"), ({"resume": True, "size": 64}, "size 32 .now 64")):
        with pytest.raises(InputError, match=message):
            settings(**more)
