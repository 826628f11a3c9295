"""Series as hospitals have them: a tilted gantry, several slice distances, several series in a folder."""
import math

import numpy as np
import pytest
import SimpleITK as sitk

from shared_data.dicom import find_ct_series, read_dicom_series, read_slices, write_dicom_series
from shared_data.errors import InputError
from shared_data.mending import gap_after
from shared_data.volume import read_ct


def agreement(ball, image):
    """Dice of what the image shows and of the ball at its voxels' places."""
    k, y, x = np.indices(image.GetSize()[::-1])
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    truth = ball.inside(np.stack([x, y, k], axis=-1) @ axes.T + image.GetOrigin())
    shown = sitk.GetArrayFromImage(image) > -450
    return 2 * (truth & shown).sum() / (truth.sum() + shown.sum())


def tilted(stack, degrees, **how):
    """Positions and orientation of slices whose normal leans that much against the way the table moves."""
    lean = math.radians(degrees)
    orientation = (1, 0, 0, 0, math.cos(lean), math.sin(lean))
    straight = np.array(stack(orientation=orientation, **how))
    steps = np.arange(len(straight)) - (len(straight) - 1) / 2
    return straight.mean(0) + np.outer(steps, (0, 0, 2.5)), orientation


@pytest.mark.parametrize("degrees", [-20, 12])
def test_a_tilted_gantry_is_sheared_back(ball, stack, tmp_path, capsys, degrees):
    positions, orientation = tilted(stack, degrees)
    files, _ = ball.draw(tmp_path, positions, orientation)
    image = read_ct(tmp_path)
    assert f"{tmp_path}: gantry tilt of {abs(degrees)}.0 degrees sheared back" in capsys.readouterr().err
    assert image.GetSize()[2] == len(files)
    assert image.GetSpacing()[2] == pytest.approx(2.5 * math.cos(math.radians(degrees)))
    assert agreement(ball, image) > 0.97
    with pytest.raises(InputError, match="gantry is tilted"):
        read_slices(next(iter(find_ct_series(tmp_path).values())), tmp_path)


def test_two_slice_distances_become_the_smaller_one(ball, stack, tmp_path, capsys):
    depths = np.r_[np.arange(-24, 0, 4), np.arange(0, 22, 1)]
    corner = np.mean(stack(), axis=0)
    ball.draw(tmp_path, [corner + (0, 0, depth) for depth in depths])
    image = read_ct(tmp_path)
    assert "slices 4, 1 mm apart resampled to 1 mm" in capsys.readouterr().err
    assert image.GetSize()[2] == 46 and image.GetSpacing()[2] == 1
    assert image.GetOrigin() == pytest.approx(corner + (0, 0, -24))
    assert agreement(ball, image) > 0.93  # the lower half has 4 mm slices


def test_a_tilt_and_two_distances_together(ball, stack, tmp_path):
    positions, orientation = tilted(stack, 10)
    ball.draw(tmp_path, [*positions[:8:2], *positions[8:]], orientation)
    assert agreement(ball, read_ct(tmp_path)) > 0.94


@pytest.mark.parametrize("steps, gap", [
    ([2.5] * 9, None), ([2.5, 2.6, 2.4, 2.5], None), ([4] * 5 + [1] * 9, None), ([5] * 4 + [7.5] + [10] * 4, None),
    ([1] * 3 + [5] * 3 + [1] * 3, None), ([2.5, 2.5, 5, 2.5], 2), ([1] * 5 + [2] + [1] * 5, 5), ([3] + [1] * 5, 0),
    ([4] * 4 + [8] + [4] * 4 + [1] * 9, 4), ([4] * 5 + [6] + [1] * 5, 5), ([1, 1, 1, 1, 3, 3, 1, 1, 1], 4),
    ([1, 2, 4, 8], 3)])
def test_missing_slices_are_told_from_several_distances(steps, gap):
    assert gap_after(np.array(steps, float)) == gap


def test_one_of_several_series_is_chosen_by_its_uid(ct, tmp_path):
    write_dicom_series(ct, tmp_path / "a")
    write_dicom_series(ct + 1, tmp_path / "b")
    uids = list(find_ct_series(tmp_path))
    first, second = (read_dicom_series(tmp_path, uid) for uid in uids)
    assert np.ptp(sitk.GetArrayFromImage(second - first)) == 0 and second[0, 0, 0] - first[0, 0, 0] == 1
    with pytest.raises(InputError, match="2 CT series: .*6 slices in .*Choose one with --series") as error:
        read_ct(tmp_path)
    assert all(uid in str(error.value) for uid in uids)
    with pytest.raises(InputError, match="no CT series 1.2.3. There: "):
        read_ct(tmp_path, "1.2.3")
    with pytest.raises(InputError, match="no CT series 1.2.3"):
        read_ct(tmp_path / "a", "1.2.3")
