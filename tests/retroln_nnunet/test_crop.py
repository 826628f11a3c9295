"""Crops: every voxel where it was in the world; cases told apart; bad cases named; stopped and run again."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from retroln_nnunet import crop
from retroln_nnunet.config import VERTEBRAE
from retroln_nnunet.crop import cut, paste, to_unit
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_json, read_table
from shared_data.phantoms_abdomen import write_abdomen_cohort
from shared_data.volume import geometry, write_volume

CODES = ["RAS", "LPS", "LAI", "PIR", "SRA", "ILP", "ASL", "SAR"]


def run(*options):
    return crop.main([str(option) for option in options])


def tree(folder):
    """{relative path: bytes}, without the settings (they name folders)."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("config.json", ".lock")}


def write(image, path):
    write_volume(image, path)
    return path


def merged(raw, case, labels=None):
    """The six vertebra files of a case in one image; labels: one for each, or all 1."""
    images = [sitk.ReadImage(str(raw / "vertebrae" / case / f"vertebrae_{name}.nii.gz")) for name in VERTEBRAE]
    first, *others = (image * label for image, label in zip(images, labels or [1] * 6))
    return sum(others, first)


def worlds(image, step=5):
    """{rounded RAS position (mm): value} of some voxels, by nibabel's affine."""
    array = np.asanyarray(image.dataobj)
    index = np.argwhere(np.ones(array.shape))[::step]
    return nib.affines.apply_affine(image.affine, index), array[tuple(index.T)]


@pytest.mark.parametrize("code", [*CODES, "oblique"])
def test_every_voxel_keeps_its_place_in_the_world(raw, tmp_path, code):
    ct, vertebrae = nib.load(raw / "CT" / "P1_0000.nii.gz"), tmp_path / "v"
    vertebrae.mkdir()

    def turned(image):
        if code != "oblique":
            return image.as_reoriented(nib.orientations.ornt_transform(
                nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(code)))
        angle = np.radians(8)
        tilt = np.array([[1, 0, 0, 5], [0, np.cos(angle), -np.sin(angle), 3], [0, np.sin(angle), np.cos(angle), 1],
                         [0, 0, 0, 1]])
        return nib.Nifti1Image(np.asanyarray(image.dataobj), tilt @ image.affine)

    nib.save(turned(ct), tmp_path / "ct.nii.gz")
    for name in VERTEBRAE:
        file = f"vertebrae_{name}.nii.gz"
        nib.save(turned(nib.load(raw / "vertebrae" / "P1" / file)), vertebrae / file)
    assert run("--single", "--ct-file", tmp_path / "ct.nii.gz", "--vert-seg-file", vertebrae, "--ct-output",
               tmp_path / "c.nii.gz", "--no_normalize") == 0
    whole, part = nib.load(tmp_path / "ct.nii.gz"), nib.load(tmp_path / "c.nii.gz")
    positions, values = worlds(part)
    back = nib.affines.apply_affine(np.linalg.inv(whole.affine), positions)
    index = np.round(back).astype(int)
    assert np.abs(nib.affines.apply_affine(whole.affine, index) - positions).max() < 1e-4
    assert np.array_equal(np.asanyarray(whole.dataobj)[tuple(index.T)], values)
    assert part.get_data_dtype() == np.float32
    notes = read_json(tmp_path / "c.json")["warnings"]
    assert ("oblique" in " ".join(notes)) == (code == "oblique")


def test_six_files_one_multi_label_file_and_one_unlabelled(raw, tmp_path):
    ct = raw / "CT" / "P2_0000.nii.gz"
    multi = write(merged(raw, "P2", [32, 31, 30, 29, 28, 27]), tmp_path / "multi.nii.gz")
    plain = write(merged(raw, "P2"), tmp_path / "plain.nrrd")
    own = write(merged(raw, "P2", [1, 2, 3, 4, 5, 6]), tmp_path / "own.nii.gz")
    six, one = crop.find_region(ct, raw / "vertebrae" / "P2"), crop.find_region(ct, multi)
    assert six == one and six["reference"] == "L2" and six["vertebrae"] == list(VERTEBRAE)
    assert crop.find_region(ct, own, vertebra_labels=(1, 2, 3, 4, 5, 6)) == six
    unlabelled = crop.find_region(ct, plain)
    assert unlabelled["reference"] == "unlabelled"
    assert [unlabelled[name] for name in ("si_min", "si_max")] == [six[name] for name in ("si_min", "si_max")]
    with pytest.raises(InputError, match="no vertebra found, labels .1, 2, 3, 4, 5, 6."):
        crop.find_region(ct, own)


def test_window_equals_the_authors(golden):
    arrays = np.load(golden / "prep_retroln_crop.npz")
    ours = sitk.GetArrayFromImage(to_unit(sitk.GetImageFromArray(arrays["ct_crop_input_sub"])))
    assert np.abs(ours - arrays["ct_crop_normalised_sub"]).max() < 1e-6
    assert np.abs(ours - arrays["ct_crop_written_sub"]).max() < 8e-6  # theirs went through int16


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 12), st.integers(0, 6), st.integers(1, 6)), min_size=3, max_size=3),
       st.integers(0, 99))
def test_what_was_cut_is_pasted_back(axes, seed):
    size, start = [axis[0] for axis in axes], [min(axis[1], axis[0] - 1) for axis in axes]
    region = {"start_xyz": start, "size_xyz": [min(axis[2], n - s) for axis, n, s in zip(axes, size, start)]}
    array = np.random.default_rng(seed).integers(0, 2, size[::-1]).astype(np.uint8)
    inside = np.zeros_like(array)
    box = tuple(slice(s, s + n) for s, n in zip(start[::-1], region["size_xyz"][::-1]))
    inside[box] = array[box]
    mask = sitk.GetImageFromArray(array)
    mask.SetSpacing((0.7, 0.8, 2.5))
    mask.SetOrigin((3, -4, 50))
    back = paste(cut(mask, region), {**region, "scan": geometry(mask)})
    assert np.array_equal(sitk.GetArrayFromImage(back), inside) and geometry(back) == geometry(mask)


def test_serial_and_parallel_give_the_same_files(raw, processed, tmp_path):
    assert run("--data-dir", raw, "--output-dir", tmp_path, "--parallel", "--num_processes", 2) == 0
    assert tree(tmp_path) == tree(processed)
    rows = read_table(processed / "report.csv", ["share_inside", "lost_ml"])
    assert [row["case"] for row in rows] == ["P1", "P2", "P3", "P4"]


def test_the_same_command_goes_on(raw, tmp_path):
    run("--data-dir", raw, "--output-dir", tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    (tmp_path / "regions" / "P2.json").unlink()  # as if stopped before P2 was done
    before = tree(tmp_path)
    assert run("--data-dir", raw, "--output-dir", tmp_path) == 0
    changed = {path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"P2_0000.nii.gz", "P2.nii.gz"} and before.items() <= tree(tmp_path).items()
    with pytest.raises(InputError, match="lr_mm 150.0 .now 120.0."):
        run("--data-dir", raw, "--output-dir", tmp_path, "--lr_mm", 120)
    with pytest.raises(InputError, match="unknown option --resume .a setting of train.py., --fold .a setting of train"):
        run("--data-dir", raw, "--output-dir", tmp_path, "--resume", "--fold", 1)


def test_case_ids_are_told_apart(raw, tmp_path):
    names = {"5": "P1", "539": "P2", "1": "P3", "01": "P4", "a.b": "P1", "Ä 7": "P2"}
    for name, source in names.items():
        for folder, old, new in (("CT", f"{source}_0000.nii.gz", f"{name}_0000.nii.gz"),
                                 ("masks", f"{source}.nii.gz", f"{name}.nii.gz")):
            (tmp_path / "raw" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(raw / folder / old, tmp_path / "raw" / folder / new)
        shutil.copytree(raw / "vertebrae" / source, tmp_path / "raw" / "vertebrae" / name)
    assert run("--data-dir", tmp_path / "raw", "--output-dir", tmp_path / "out") == 0
    for name in names:
        region = read_json(tmp_path / "out" / "regions" / f"{name}.json")
        assert [Path(region[key]).name for key in ("ct", "mask", "vertebrae_from")] == [
            f"{name}_0000.nii.gz", f"{name}.nii.gz", name]
    shutil.rmtree(tmp_path / "raw" / "vertebrae" / "5")
    (tmp_path / "raw" / "masks" / "1.nii.gz").unlink()
    assert run("--data-dir", tmp_path / "raw", "--output-dir", tmp_path / "out") == 1
    assert read_json(tmp_path / "out" / "report.json")["skipped"] == {
        "1": "0 candidates for the mask of case 1. One is needed.",
        "5": "0 candidates for the vertebrae of case 5. One is needed."}


def test_a_dicom_ct_with_its_rtstruct_gives_the_same_crop(raw, processed, tmp_path, dicom_case):
    ct, nodes = (sitk.ReadImage(str(raw / place)) for place in ("CT/P4_0000.nii.gz", "masks/P4.nii.gz"))
    dicom_case(ct, nodes, {1: "Nodes"}, tmp_path / "CT" / "P4")
    (tmp_path / "rois.json").write_text('{"node": "nodes"}')
    assert run("--ct-dir", tmp_path / "CT", "--vert-seg-dir", raw / "vertebrae", "--output-dir", tmp_path / "out",
               "--rois", tmp_path / "rois.json") == 0
    for place in ("images/P4_0000.nii.gz", "labels/P4.nii.gz"):
        ours, first = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / place)))
                       for folder in (tmp_path / "out", processed))
        assert np.array_equal(ours, first)


def test_a_mask_cut_by_the_region_is_reported(raw, tmp_path, capsys):
    mask = sitk.ReadImage(str(raw / "masks" / "P1.nii.gz"))
    mask[0, 0, 0] = 1
    for folder in ("CT", "vertebrae"):
        (tmp_path / folder).symlink_to(raw / folder)
    for name in ("P1", "P2", "P3", "P4"):
        write(mask if name == "P1" else mask * 0, tmp_path / "masks" / f"{name}.nii.gz")
    vertebrae = raw / "vertebrae" / "P1"
    assert run("--single", "--ct-file", raw / "CT" / "P1_0000.nii.gz", "--vert-seg-file", vertebrae, "--mask-file",
               tmp_path / "masks" / "P1.nii.gz", "--ct-output", tmp_path / "c.nrrd", "--mask-output",
               tmp_path / "m.mha") == 0
    assert "the region cuts 0.34 ml" in capsys.readouterr().out
    assert sitk.ReadImage(str(tmp_path / "m.mha")).GetPixelID() == mask.GetPixelID()
    run("--single", "--ct-file", raw / "CT" / "P1_0000.nii.gz", "--vert-seg-file", vertebrae, "--mask-file",
        write(mask * 0, tmp_path / "e.nii.gz"), "--ct-output", tmp_path / "c.nrrd", "--mask-output", tmp_path / "m.mha")
    assert "the mask is empty" in capsys.readouterr().out


def test_bad_cases_are_skipped_and_named(raw, tmp_path, capsys):
    cohort = tmp_path / "raw"
    ct = sitk.ReadImage(str(raw / "CT" / "P1_0000.nii.gz"))
    mask = sitk.ReadImage(str(raw / "masks" / "P1.nii.gz"))
    shifted = sitk.Image(mask)
    shifted.SetOrigin((0, 0, 0))
    nothing = mask * 0

    def case(name, image=ct, label=mask, vertebrae=None):
        (cohort / "CT").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(cohort / "CT" / f"{name}_0000.nii.gz"))
        write(label, cohort / "masks" / f"{name}.nii.gz")
        shutil.copytree(raw / "vertebrae" / "P1", cohort / "vertebrae" / name)
        for path in (cohort / "vertebrae" / name).iterdir():
            if vertebrae and path.name not in vertebrae:
                path.unlink()
            elif vertebrae and vertebrae[path.name] is not None:
                write(vertebrae[path.name], path)

    case("good")
    case("only L5", vertebrae={"vertebrae_L5.nii.gz": None})
    case("empty mask", label=nothing)
    case("air", image=ct * 0 - 1000)
    case("nan")
    (cohort / "CT" / "nan_0000.nii.gz").unlink()  # NRRD: ITK reads NaN in NIfTI as 0
    sitk.WriteImage(sitk.Cast(ct, sitk.sitkFloat32) * float("nan"), str(cohort / "CT" / "nan_0000.nrrd"))
    case("labels", label=mask * 3)
    case("size", label=mask[1:])
    case("shifted", label=shifted)
    case("no vertebra", vertebrae={"vertebrae_L2.nii.gz": nothing})
    case("other grid", vertebrae={"vertebrae_L2.nii.gz": shifted})
    case("cut")
    whole = (cohort / "CT" / "cut_0000.nii.gz").read_bytes()
    (cohort / "CT" / "cut_0000.nii.gz").write_bytes(whole[:len(whole) // 2])
    case("empty")
    (cohort / "CT" / "empty_0000.nii.gz").write_bytes(b"")
    case("text")
    (cohort / "CT" / "text_0000.nii.gz").write_text("hello")
    case("twice")
    write(ct, cohort / "CT" / "twice.nii.gz")
    case("spacing")
    header = nib.load(cohort / "CT" / "good_0000.nii.gz").header
    header["pixdim"][3], header["sform_code"] = 0, 0
    (cohort / "CT" / "spacing_0000.nii.gz").unlink()
    plain = cohort / "CT" / "spacing_0000.nii"
    sitk.WriteImage(ct, str(plain))
    plain.write_bytes(header.binaryblock + plain.read_bytes()[348:])
    case("nan in nifti")
    array = sitk.GetArrayFromImage(ct).astype(np.float32)
    array[-1, -1, -1] = np.nan
    affine = nib.load(cohort / "CT" / "good_0000.nii.gz").affine
    nib.save(nib.Nifti1Image(array.T, affine), cohort / "CT" / "nan in nifti_0000.nii.gz")
    case("2-D")
    nib.save(nib.Nifti1Image(np.zeros((40, 40), np.int16), np.eye(4)), cohort / "CT" / "2-D_0000.nii.gz")
    case("mask cut")
    whole = (cohort / "masks" / "mask cut.nii.gz").read_bytes()
    (cohort / "masks" / "mask cut.nii.gz").write_bytes(whole[:-9])
    case("4-D")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), cohort / "CT" / "4-D_0000.nii.gz")
    assert run("--data-dir", cohort, "--output-dir", tmp_path / "out") == 1
    skipped = read_json(tmp_path / "out" / "report.json")["skipped"]
    for name, word in (("air", "every voxel is -1000"), ("nan", "NaN"), ("labels", "labels 3 are unknown"),
                       ("size", "size"), ("shifted", "origin"), ("no vertebra", "no vertebra found"),
                       ("other grid", "differs from the CT"), ("cut", "damaged or cut short"), ("empty", "is empty"),
                       ("text", "damaged"), ("twice", "2 candidates for the CT"), ("4-D", "3-D"), ("2-D", "3-D"),
                       ("spacing", "impossible"), ("nan in nifti", "NaN"), ("mask cut", "damaged or cut short")):
        assert word in skipped.pop(name), name
    assert not skipped
    rows = {row["case"]: row["notes"] for row in read_table(tmp_path / "out" / "report.csv", [])}
    assert rows == {"good": "", "only L5": rows["only L5"], "empty mask": "the mask is empty"}
    assert "L2 is missing, L5 takes its place" in rows["only L5"]
    assert "note on only L5" in capsys.readouterr().err


def test_killed_and_started_again_gives_the_same_files(tmp_path):
    write_abdomen_cohort(tmp_path / "raw", patients=3, size=128, slices=60)
    command = [sys.executable, "-m", "retroln_nnunet.crop", "--data-dir", str(tmp_path / "raw"), "--parallel",
               "--num_processes", "2", "--output-dir"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("regions/*.json")):
        assert killed.poll() is None
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    for out in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / out)], check=True, capture_output=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".writing-*"))


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"sources": {}, "report": 5}'])
def test_a_damaged_case_is_cropped_again(raw, processed, tmp_path, content):
    shutil.copytree(processed, tmp_path / "out")
    (tmp_path / "out" / "regions" / "P3.json").write_text(content)
    (tmp_path / "out" / "images" / "P2_0000.nii.gz").unlink()
    assert run("--data-dir", raw, "--output-dir", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(processed)


def test_odd_names_do_not_stop_the_others(raw, tmp_path, capsys):
    for name in ("ok", "line\nbreak", "byte\udcff", "n" * 210):
        for folder, file in (("CT", f"{name}_0000.nii.gz"), ("masks", f"{name}.nii.gz")):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(raw / folder / file.replace(name, "P1"), tmp_path / folder / file)
        shutil.copytree(raw / "vertebrae" / "P1", tmp_path / "vertebrae" / name)
    assert run("--data-dir", tmp_path, "--output-dir", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("cannot be prepared. Rename it.") == 3
    assert [row["case"] for row in read_table(tmp_path / "out" / "report.csv", [])] == ["ok"]


def test_inputs_are_not_overwritten_and_two_runs_are_refused(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    before = tree(tmp_path / "raw")
    for folder in ("CT", "masks/o", "vertebrae", "."):
        with pytest.raises(InputError, match="must lie apart"):
            run("--data-dir", tmp_path / "raw", "--output-dir", tmp_path / "raw" / folder)
    ct, mask = tmp_path / "raw" / "CT" / "P1_0000.nii.gz", tmp_path / "raw" / "masks" / "P1.nii.gz"
    single = ["--single", "--ct-file", ct, "--vert-seg-file", tmp_path / "raw" / "vertebrae" / "P1"]
    for outputs, message in ((["--ct-output", ct], "overwrite the input"),
                             (["--ct-output", tmp_path / "c.nrrd", "--mask-file", mask, "--mask-output", mask],
                              "overwrite the input"),
                             (["--ct-output", mask, "--mask-file", mask, "--mask-output", tmp_path / "m.nrrd"],
                              "twice"),
                             (["--ct-output", tmp_path / "c.nrrd", "--mask-file", mask, "--mask-output",
                               tmp_path / "c.nrrd"], "twice")):
        with pytest.raises(InputError, match=message):
            run(*single, *outputs)
    assert tree(tmp_path / "raw") == before
    with only_run_in(tmp_path / "out"), pytest.raises(InputError, match="another run is at work here"):
        run("--data-dir", raw, "--output-dir", tmp_path / "out")


@pytest.mark.parametrize("options, message", [
    (["--single"], "--single needs --ct-file"), (["--min_hu", "500"], "must be below --max-hu"),
    (["--ap_mm", "0"], "--ap-mm 0.0 must be positive"), (["--si-extent", "L3"], "invalid choice"),
    (["--ct-dir", "absent"], "absent: no such folder")])
def test_impossible_settings_are_one_line(tmp_path, options, message):
    done = subprocess.run([sys.executable, "crop.py", "--output_dir", str(tmp_path / "o"), *options], text=True,
                          capture_output=True, cwd=Path(crop.__file__).parent)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
