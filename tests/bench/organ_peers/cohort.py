"""OpenKBP as NIfTI files: every network of the comparison is scored on them, and the peers are trained on them.

<folder>/ct/<case>.nii.gz (HU), labels/<case>.nii.gz (1, 2, ... as in shared_data.openkbp.ORGANS), cases.csv.
"""
from shared_data import openkbp
from shared_data.errors import InputError
from shared_data.files import read_table, write_table
from shared_data.volume import write_volume


def write_cohort(data, folder):
    """Every case that the projects' own preparation takes; the others are named."""
    if (folder / "cases.csv").exists():
        return
    rows = []
    for part, source in openkbp.find_cases(data):
        try:
            ct, labels, drawn, _ = openkbp.read_case(source, openkbp.ORGANS)
        except InputError as error:
            print(f"left out: {error}")
            continue
        for name, image in (("ct", ct), ("labels", labels)):
            write_volume(image, folder / name / f"{source.name}.nii.gz")
        rows.append({"case": source.name, "part": part,
                     "drawn": " ".join(str(openkbp.ORGANS.index(organ) + 1) for organ in drawn)})
    write_table(folder / "cases.csv", rows)


def read_cases(folder, part):
    """{case: labels of the organs that somebody drew in it} of a part: train, valid or test."""
    return {row["case"]: [int(label) for label in row["drawn"].split()]
            for row in read_table(folder / "cases.csv", ["case", "part", "drawn"]) if row["part"] == part}


def presence(drawn):
    """(B, C) of 0 and 1 for the label lists of B cases; the background is always there."""
    return [[1, *(int(label in labels) for label in range(1, len(openkbp.ORGANS) + 1))] for labels in drawn]
