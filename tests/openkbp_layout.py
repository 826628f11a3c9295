"""A drawn patient in the layout in which OpenKBP is published."""
import numpy as np

from shared_data.openkbp import PARTS, SHAPE, WATER

SPACING_MM = (4.0, 4.5, 3.0)  # to the back, to the left, down
# Structure -> first and last voxel along those axes: boxes that lie apart.
BOXES = {"Brainstem": ((70, 60, 30), (77, 67, 41)), "Mandible": ((40, 56, 40), (47, 71, 47)),
         "LeftParotid": ((60, 80, 36), (69, 87, 47)), "RightParotid": ((60, 40, 36), (69, 47, 47))}
BODY = ((30, 34, 20), (93, 95, 59))
STICKS_OUT = "SpinalCord"  # a structure of which half lies outside the dose mask
CUT = ((72, 62, 40), (77, 65, 79))
LUNG = (50, 60, 50)  # a voxel of the dose mask without a grey value: air


def box(low, high):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(start, stop + 1) for start, stop in zip(low, high))] = True
    return mask


def write_case(folder, structures=(*BOXES, STICKS_OUT), seed=0):
    """One case; (grey values, dose mask) as arrays in the published order of axes."""
    rng = np.random.default_rng(seed)
    inside = box(*BODY)
    grey = np.where(inside, rng.integers(940, 1080, SHAPE), 0)
    masks = {name: box(*BOXES.get(name, CUT)) for name in structures}
    for name, mask in masks.items():
        grey[mask] = {"Mandible": 1900, "Brainstem": 1028}.get(name, 1045)  # published inside structures, too
    for y in (30, 91):
        grey[box((y, 44, 20), (y + 1, 86, 55))] = 1700  # bone in front and behind, so that there is a head
    grey[LUNG] = 0
    folder.mkdir(parents=True)
    index = np.flatnonzero(grey)
    write(folder / "ct.csv", [f"{i},{float(v)}" for i, v in zip(index, grey.ravel()[index])])
    for name, mask in {"possible_dose_mask": inside, **masks}.items():
        write(folder / f"{name}.csv", [f"{i}," for i in np.flatnonzero(mask)])
    (folder / "voxel_dimensions.csv").write_text("".join(f"{mm:.18e}\n" for mm in SPACING_MM))
    return grey, inside


def write(path, lines):
    path.write_text(",data\n" + "".join(line + "\n" for line in lines))


def write_cohort(root):
    """pt_1 to pt_4: two training cases, one of which lacks the mandible, one for validation and one for testing."""
    for number, part in enumerate(("train", "train", "valid", "test"), 1):
        missing = ("Mandible",) if number == 2 else ()
        write_case(root / "provided-data" / PARTS[part] / f"pt_{number}",
                   [name for name in (*BOXES, STICKS_OUT) if name not in missing], seed=number)
    return root


def hu_of(grey, inside):
    """What a reader should find, (z, y, x) in LPS."""
    return np.where(inside, grey - WATER, -WATER).transpose(2, 0, 1)[::-1]
