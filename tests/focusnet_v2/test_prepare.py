"""Cases to training cases: true geometry, missing structures and landmarks, restartable, bad cases named."""
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from focusnet_v2.cases import ADDITIONAL, OFF_SITE, ON_SITE, TRAIN, assign_parts
from focusnet_v2.config import Config
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from focusnet_v2.data_preprocess.crop_data import head_region
from focusnet_v2.grids import cut, onto_grid, resampled, seen_box, to_network_grid
from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_table
from shared_data.phantoms import write_pddca_cohort
from shared_data.settings import load_config
from shared_data.volume import geometry, image_from, read_volume, write_volume

PDDCA = [f"0522c{number}" for group in (TRAIN, ADDITIONAL, OFF_SITE, ON_SITE) for number in group]


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nrrd"))}


@pytest.mark.parametrize("name, align_corners", [("resampled", False), ("resampled_align_corners", True)])
def test_resampling_equals_the_authors(golden, name, align_corners):
    arrays = np.load(golden / "prep_focusnet_resample.npz")
    image = sitk.GetImageFromArray(arrays["volume"])
    image.SetSpacing((0.9, 1.3, 3.0))  # theirs takes 1.3 x 0.9 x 3.0 with x and y swapped
    ours = sitk.GetArrayFromImage(resampled(image, (1.0, 1.0, 2.5), align_corners=align_corners))
    assert np.abs(ours - arrays[name]).max() < 2e-6 * np.abs(arrays[name]).max()


def test_resampling_with_the_authors_axes_is_an_option(golden):
    arrays = np.load(golden / "prep_focusnet_resample.npz")
    image = sitk.GetImageFromArray(arrays["volume"])
    image.SetSpacing((1.3, 0.9, 3.0))
    theirs = to_network_grid(image, Config(resample_axes="original"))
    assert np.abs(sitk.GetArrayFromImage(theirs) - arrays["resampled"]).max() < 2e-6 * arrays["resampled"].max()
    ours = to_network_grid(image, Config())
    assert ours.GetSize() == (19, 16, 8) and ours.GetSpacing() == (1, 1, 2.5)
    for one in (ours, theirs):  # the geometry is true in both: the same place has the same value, but for the sampling
        inner = [size // 2 for size in one.GetSize()]
        place = one.TransformIndexToPhysicalPoint(inner)
        assert image.EvaluateAtPhysicalPoint(place) == pytest.approx(one[inner], rel=1e-4)


@pytest.mark.parametrize("name, align_corners", [("prob_resampled", False), ("prob_resampled_align_corners", True)])
def test_probabilities_onto_another_size_equal_the_authors(golden, name, align_corners):
    arrays = np.load(golden / "prep_focusnet_resample.npz")
    for ours, reference in zip(arrays["prob"], arrays[name]):  # size (17, 13, 9) is theirs with x and y swapped
        image = resampled(sitk.GetImageFromArray(ours), (12 / 13, 10 / 17, 6 / 9), align_corners=align_corners)
        assert np.abs(sitk.GetArrayFromImage(image) - reference).max() < 2e-6
    image = sitk.GetImageFromArray(arrays["volume"])
    spacing = [n / m for n, m in zip(image.GetSize(), arrays["resampled"].shape[::-1])]
    ours = sitk.GetArrayFromImage(resampled(image, spacing))
    assert np.abs(ours - arrays["resampled_recomputed_scale"]).max() < 2e-6 * arrays["resampled"].max()


@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(-8, 8)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_a_cut_shows_the_volume_where_they_overlap(shape, start, size):
    volume = np.random.default_rng(0).integers(1, 99, shape)
    part = cut(volume, start, size)
    assert part.shape == size
    for index in np.ndindex(*size):
        place = np.add(start, index)
        inside = ((place >= 0) & (place < shape)).all()
        assert part[index] == (volume[tuple(place)] if inside else 0)


@given(st.tuples(*[st.integers(2, 7)] * 3), st.tuples(*[st.integers(0, 3)] * 3), st.integers(0, 99))
def test_a_part_brought_onto_its_own_grid_is_itself(shape, start, seed):
    grid = {"spacing_xyz": (0.7, 1.3, 2.5), "origin_xyz": (-8, 20, 3), "direction": np.eye(3).ravel().tolist()}
    whole = image_from(np.random.default_rng(seed).random(np.add(shape, start)).astype(np.float32), grid)
    part = cut(sitk.GetArrayFromImage(whole), start, shape)
    kept = {**geometry(whole), "origin_xyz": whole.TransformIndexToPhysicalPoint(start[::-1])}
    values, box = onto_grid(part, kept, whole)
    assert [side.start for side in box] == list(start) and np.allclose(values, part, atol=1e-6)


def test_prepared_volumes_lie_where_the_scan_lies(raw, prepared):
    ct = read_volume(raw / "P1" / "img.nrrd")
    for name in ("resampled", "cropped"):
        image, label = (sitk.ReadImage(str(prepared / name / "P1" / f"{file}.nrrd")) for file in ("image", "label"))
        assert geometry(image) == geometry(label)
        assert np.allclose(image.GetSpacing(), (4, 4, 5))
        for organ in (1, 3):  # large ones: their centres in mm are those of the masks
            voxels = np.argwhere(sitk.GetArrayFromImage(label) == organ).mean(0)[::-1]
            mask = read_volume(raw / "P1" / "structures" / f"{Config().organs[organ - 1]}.nrrd")
            true = np.argwhere(sitk.GetArrayFromImage(mask)).mean(0)[::-1]
            ours = label.TransformContinuousIndexToPhysicalPoint(voxels.tolist())
            assert np.linalg.norm(np.subtract(ours, mask.TransformContinuousIndexToPhysicalPoint(true.tolist()))) < 3
        index = [size // 2 for size in image.GetSize()]
        place = image.TransformIndexToPhysicalPoint(index)
        assert ct.EvaluateAtPhysicalPoint(place) == pytest.approx(image[index], abs=1)
    assert np.array_equal(array(prepared / "resampled" / "P1" / "reference.nrrd") == 1,
                          array(raw / "P1" / "structures" / "BrainStem.nrrd") > 0)


TG263 = dict(zip(Config().organs, ("Brainstem", "OpticChiasm", "Bone_Mandible", "OpticNrv_L", "OpticNrv_R", "Parotid_L",
                          "Parotid_R", "Glnd_Submand_L", "Glnd_Submand_R")))


def test_a_cohort_of_rtstructs_gives_the_same_cases(raw, prepared, tmp_path, prepare, dicom_case, capsys):
    for folder in raw.iterdir():
        ct = sitk.Cast(read_volume(folder / "img.nrrd"), sitk.sitkInt16)
        labels = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
        labels.CopyInformation(ct)
        for label, organ in enumerate(TG263, 1):
            if (path := folder / "structures" / f"{organ}.nrrd").exists():
                labels = sitk.Maximum(labels, sitk.Cast(read_volume(path), sitk.sitkUInt8) * label)
        dicom_case(ct, labels, dict(enumerate(TG263.values(), 1)), tmp_path / "raw" / folder.name)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    assert "P2: missing Submandibular_R" in capsys.readouterr().out
    for name in ("P1", "P2"):
        for file in ("image", "label"):
            for step in ("resampled", "cropped"):
                ours, first = (read_volume(folder / step / name / f"{file}.nrrd")
                               for folder in (tmp_path / "out", prepared))
                assert np.array_equal(*map(sitk.GetArrayFromImage, (ours, first)))
                assert np.allclose(ours.GetOrigin(), first.GetOrigin(), atol=1e-6)
    assert (tmp_path / "out" / "presence.csv").read_text() == (prepared / "presence.csv").read_text()
    (tmp_path / "rois.json").write_text('{"Chiasma": "x"}')
    with pytest.raises(InputError, match="rois.json: 'Chiasma' is none of our organs: BrainStem, "):
        prepare(tmp_path / "raw", tmp_path / "out", "--rois", str(tmp_path / "rois.json"))


def test_what_a_case_misses_is_in_the_presence_table(prepared):
    rows = {row["case"]: row for row in read_table(prepared / "presence.csv", ["case", *Config().classes])}
    assert [rows["P1"][name] for name in Config().classes] == ["1"] * 10
    assert [name for name in Config().classes if rows["P2"][name] == "0"] == ["background", "Submandibular_R"]
    assert [name for name in Config().classes if rows["P4"][name] == "0"] == ["background", "Mandible",
                                                                             "Submandibular_L"]


def test_the_crop_is_the_authors():
    labels = np.zeros((120, 300, 300), np.uint8)
    for organ, place in (("BrainStem", (80, 160, 150)), ("Parotid_R", (60, 170, 90)), ("OpticNerve_L", (90, 60, 170))):
        labels[place] = Config().organs.index(organ) + 1
    start, shape, notes = head_region(labels, Config())
    assert (start, shape, notes) == ((23, 160 - 50 - 120, 150 - 120), (90 + 12 - 60 + 37, 240, 240), [])


@pytest.mark.parametrize("gone, note, first, stop", [
    ((7,), "Parotid_R missing: Parotid_L in its place", 62 - 37, 102),
    ((7, 6), "Parotid_R missing: bounding box of all organs", 80, 102),
    ((4,), "OpticNerve_L missing: OpticNerve_R in its place", 23, 91 + 12),
    ((4, 5), "OpticNerve_L missing: Chiasm in its place", 23, 88 + 12),
    ((4, 5, 2), "OpticNerve_L missing: bounding box of all organs", 23, 81),
    ((1,), "BrainStem missing: bounding box of all organs", 23, 102)])
def test_missing_landmarks_give_way_to_others(gone, note, first, stop):
    labels = np.zeros((120, 300, 300), np.uint8)
    for organ, place in {1: (80, 160, 150), 2: (88, 90, 150), 4: (90, 60, 170), 5: (91, 60, 130), 6: (62, 170, 210),
                         7: (60, 170, 90)}.items():
        if organ not in gone:
            labels[place] = organ
    start, shape, notes = head_region(labels, Config())
    assert notes == [note] and (start[0], start[0] + shape[0]) == (first, stop)
    centre = np.add(start[1:], 120)
    assert tuple(centre) == ((115, 150) if gone == (1,) else (110, 150))


def test_odd_landmarks_leave_a_crop_that_holds_organs():
    labels = np.zeros((60, 50, 50), np.uint8)
    labels[50, 20, 20], labels[2, 30, 30], labels[4, 2, 2] = 7, 4, 1  # upside down, brain stem in a corner
    start, shape, notes = head_region(labels, Config(crop_below=0, crop_above=0))
    assert "wrong order" in notes[0] and start[0] == 2 and shape[0] == 49
    assert cut(labels, start, shape).any()


def test_splits(tmp_path):
    parts = assign_parts(PDDCA, Config())[0]
    counts = {part: sum(other == part for _, other in parts) for part in ("train", "valid", "test")}
    assert counts == {"train": 26, "valid": 7, "test": 15} and len({name for name, _ in parts}) == 48
    parts = assign_parts(PDDCA, Config(split="authors"))[0]
    assert sum(part == "train" for _, part in parts) == 38
    assert {name for name, part in parts if part == "valid"} == {name for name, part in parts if part == "test"}
    parts, note = assign_parts(PDDCA[:5], Config())  # of the training list only
    assert {part for _, part in parts} == {"train", "valid", "test"} and "split by name" in note
    with pytest.raises(InputError, match="1 usable case; train, valid and test need at least one each"):
        assign_parts(["P1"], Config())
    table = tmp_path / "own.csv"
    pairs = [("a", "train"), ("b", "valid"), ("c", "test")]
    write_table(table, [{"case": name, "part": part} for name, part in pairs])
    assert assign_parts(["a", "b", "c", "d"], Config(cases_csv=table))[0] == pairs
    for rows, message in (([("a", "trian")], "part 'trian' of case a"), ([("x", "train")], "case x is not among"),
                          ([("a", "train")], "no test and no valid case")):
        write_table(table, [dict(zip(("case", "part"), row)) for row in rows])
        with pytest.raises(InputError, match=message):
            assign_parts(["a"], Config(cases_csv=table))


def test_preparing_twice_writes_once_and_other_settings_are_refused_or_done_again(raw, tmp_path, prepare, monkeypatch):
    prepare(raw, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nrrd")}
    prepare(raw, tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nrrd")}
    with pytest.raises(InputError, match="spacing_xyz 4.0 4.0 5.0 .now 3.0 3.0 3.0"):
        prepare(raw, tmp_path, "--spacing-xyz", "3", "3", "3")
    with pytest.raises(InputError, match="--crop-side 16 must not be smaller than --patch-zyx"):
        prepare(raw, tmp_path, "--crop-side", "16")
    for script, option, owner in (
            (data_preprocess, "--crop-side", "crop_data.py"), (crop_data, "--rois", "data_preprocess.py"),
            (crop_data, "--sol-lr", "train.py"), (data_preprocess, "--resume", "train.py")):
        with pytest.raises(InputError, match=f"unknown option {option} .a setting of {owner}"):
            script.main(["--prepared-dir", str(tmp_path), option, "1"])
    prepare(raw, tmp_path, "--crop-side", "44")  # another crop is made anew
    assert array(tmp_path / "cropped" / "P1" / "image.nrrd").shape[1:] == (44, 44)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cropped/*/*.nrrd")}
    monkeypatch.setattr(crop_data, "LANDMARKS", (("Chiasm",), *crop_data.LANDMARKS[1:]))
    prepare(raw, tmp_path, "--crop-side", "44")  # so is one by other landmarks
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_killed_and_started_again_gives_the_same_files(tmp_path):
    write_pddca_cohort(tmp_path / "raw", patients=4, size=128, slices=32)
    command = [sys.executable, "-m", "focusnet_v2.data_preprocess.data_preprocess", "--data-dir", str(tmp_path / "raw"),
               "--workers", "0", "--prepared-dir"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("resampled/*/case.json")):
        assert killed.poll() is None
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole") and len(tree(tmp_path / "whole")) == 12


def test_stored_orientation_and_names_do_not_matter(raw, prepared, tmp_path, prepare):
    for case in ("P1", "P2", "P3"):
        for path in (raw / case).rglob("*.nrrd"):
            image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAI")
            name = path.relative_to(raw).with_suffix("")
            write_volume(image, (tmp_path / "Löwe 1" / name).with_name(name.name.upper() + ".nii.gz"))
    prepare(tmp_path / "Löwe 1", tmp_path / "out put")
    assert np.array_equal(array(tmp_path / "out put" / "resampled" / "P1" / "label.nrrd"),
                          array(prepared / "resampled" / "P1" / "label.nrrd"))


def test_a_crop_in_voxels_of_another_size_is_noted(prepared):
    crop = {"crop_side": 40, "crop_anterior": 12, "crop_below": 14, "crop_above": 7}
    own = load_config(Config, prepared / "config.json", {"prepared_dir": prepared, **crop})
    assert crop_data.same_voxels(own) is None
    assert "--crop-side 240 count voxels" in crop_data.same_voxels(replace(own, crop_side=240))


def test_other_structures_are_ignored_and_empty_ones_count_as_missing(raw, tmp_path, capsys, prepare):
    for case in ("P1", "P3", "P5"):
        shutil.copytree(raw / case, tmp_path / "raw" / case)
    structures = tmp_path / "raw" / "P1" / "structures"
    shutil.copy(structures / "Chiasm.nrrd", structures / "Larynx.nrrd")
    write_volume(sitk.ReadImage(str(structures / "Chiasm.nrrd")) * 0, structures / "Chiasm.nrrd")
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "P1: missing Chiasm" in shown and "P1: ignored Larynx.nrrd" in shown
    assert read_json(tmp_path / "out" / "resampled" / "P1" / "case.json")["organs"][:2] == ["BrainStem", "Mandible"]
    prepare(tmp_path / "raw", tmp_path / "out")
    assert "P1: missing Chiasm" in capsys.readouterr().out  # also when the case is not prepared again


def test_bad_cases_are_skipped_and_named(raw, tmp_path, capsys, prepare):
    cohort = tmp_path / "raw"
    shutil.copytree(raw, cohort)
    image = sitk.ReadImage(str(raw / "P1" / "img.nrrd"))
    mask = sitk.ReadImage(str(raw / "P1" / "structures" / "BrainStem.nrrd"))

    def case(name, ct=image, organ=mask, file="BrainStem"):
        (cohort / name / "structures").mkdir(parents=True)
        for path, content in ((f"{name}/img.nrrd", ct), (f"{name}/structures/{file}.nrrd", organ)):
            if content is not None:
                sitk.WriteImage(content, str(cohort / path))

    shifted = sitk.Image(mask)
    shifted.SetOrigin((0, 0, 0))
    nan = sitk.Cast(image, sitk.sitkFloat32)
    nan[3, 3, 3] = float("nan")
    (cohort / "0 empty").mkdir()
    case("0 air", image * 0 - 1000)
    case("0 nan", nan)
    case("0 flat", image[:, :, 0])
    case("0 size", organ=mask[1:])
    case("0 shifted", organ=shifted)
    case("0 blank", organ=mask * 0)
    case("0 unknown", file="Larynx")
    case("0 cut")
    (cohort / "0 cut" / "img.nrrd").write_bytes((raw / "P1" / "img.nrrd").read_bytes()[:9000])
    case("0 text")
    (cohort / "0 text" / "img.nrrd").write_text("hello")
    case("0 twice")
    shutil.copy(raw / "P1" / "img.nrrd", cohort / "0 twice" / "IMG.nrrd")
    shutil.rmtree(cohort / "0 twice" / "structures")
    assert prepare(cohort, tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    reasons = dict(line.removeprefix("skipped ").split(": ", 1) for line in lines)
    for name, word in (("empty", "0 files named img"), ("air", "every voxel is"), ("nan", "not numbers"),
                       ("flat", "3-D"), ("size", "size"), ("shifted", "origin"), ("blank", "every mask is empty"),
                       ("unknown", "none of BrainStem"), ("cut", "cut short"), ("text", "not a readable"),
                       ("twice", "2 files named img")):
        assert word in reasons.pop(f"0 {name}"), name
    assert not reasons
    assert [row["case"] for row in read_table(tmp_path / "out" / "cases.csv", [])] == ["P1", "P2", "P3", "P4", "P5"]


def test_cohorts_without_use_are_refused(raw, tmp_path, prepare):
    for folder, message in ((tmp_path / "absent", "no such folder"), (tmp_path, "no case in it")):
        with pytest.raises(InputError, match=message):
            prepare(folder, tmp_path.parent / "elsewhere")
    with pytest.raises(InputError, match="must lie apart"):
        prepare(raw, raw / "prepared")
    with pytest.raises(InputError, match="no resampled case. Run data_preprocess.py first"):
        crop_data.main(["--prepared-dir", str(tmp_path)])
    shutil.copytree(raw / "P1", tmp_path / "raw" / "P1")
    with pytest.raises(InputError, match="1 usable case"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_the_script_runs_inside_its_folder(tmp_path):
    command = [sys.executable, "data_preprocess/data_preprocess.py", "--data_dir", str(tmp_path), "--nonsense"]
    done = subprocess.run(command, cwd=Path(data_preprocess.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("data_preprocess.py: error: unknown option --nonsense")


def test_what_is_segmented_holds_the_head_or_is_the_authors_central_square():
    authors = Config(window_side=192)
    assert seen_box(np.zeros((100, 300, 240)), authors) == ((0, 54, 24), (100, 192, 192))
    assert seen_box(np.zeros((20, 100, 193)), authors) == ((-20, -46, 0), (40, 192, 192))
    assert seen_box(np.zeros((50, 301, 240)), Config()) == ((0, -2, 0), (50, 304, 240))  # no bone: all
    hu = np.full((150, 512, 512), -1000)
    hu[100:140, 20:240, 300:460] = 800  # a head far from the middle
    hu[0:30, :, :] = 800  # shoulders, too low to count
    hu[149, 500, 10] = 3000  # a speck
    assert seen_box(hu, Config()) == ((0, -2, 274), (150, 268, 212))


def test_couches_head_rests_and_shoulders_do_not_widen_what_is_segmented():
    config = Config(spacing_xyz=(2.0, 2.0, 3.0), patch_zyx=(40, 64, 64))
    z, y, x = np.mgrid[:100, :200, :200]
    hu = np.full(z.shape, -1000)
    hu[((y - 90) / 50) ** 2 + ((x - 100) / 38) ** 2 <= 1] = 30  # head and neck
    hu[(((y - 90) / 47) ** 2 + ((x - 100) / 35) ** 2 <= 1) & (((y - 90) / 44) ** 2 + ((x - 100) / 32) ** 2 > 1)] = 900
    alone = seen_box(hu, config)
    assert alone[1][1] < 130 and alone[1][2] < 110
    hu[:, 142:145] = 300  # a couch as wide as the CT, with bright rails
    hu[:, 145:150, :4] = hu[:, 145:150, -4:] = 1500
    hu[40:, 132:145, 85:87] = hu[40:, 132:145, 113:115] = 400  # a head rest that touches the skin
    shoulders = (z < 20) & (((y - 90) / 45) ** 2 + ((x - 100) / 95) ** 2 <= 1)
    hu[shoulders & (hu < 0)] = 30
    hu[(z < 20) & (((y - 90) / 12) ** 2 + ((abs(x - 100) - 78) / 12) ** 2 <= 1)] = 800
    assert seen_box(hu, config) == alone
