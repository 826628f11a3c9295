"""What a predicted cohort looks like at a glance: cases.csv, and report.html with a contact sheet."""
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from shared_data.files import write_table
from shared_data.named_types import Row
from shared_results.pictures import contact_sheet, save_picture
from shared_results.report import write_report

PER_SHEET, WIDTH, AREA = 32, 1200, 300 * 300  # pixels of a sheet's width, and of an overlay in it


def write_cohort(folder: Path, title: str, notes: Sequence[str], rows: Sequence[Row]) -> None:
    """Write both of the rows of the cases, in their order; `folder` holds the overlays of those that are done."""
    fullest = max(rows, key=len)
    write_table(folder / "cases.csv", rows, fullest)
    done = [row["case"] for row in rows if row["status"] == "done"]
    with tempfile.TemporaryDirectory() as place:
        sheets = {}
        for start in range(0, len(done), PER_SHEET):
            names = done[start:start + PER_SHEET]
            sheet = Path(place) / f"{start}.png"
            pictures = [(_small(folder / f"{name}_overlay.png"), name) for name in names]
            save_picture(sheet, contact_sheet(pictures, max(1, WIDTH // max(one.shape[1] for one, _ in pictures))))
            sheets[f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]] = sheet
        pages = {name: page for name in done if (page := folder / f"{name}_viewer.html").exists()}
        if len(pages) < len(done):
            notes = [*notes, f"{len(done) - len(pages)} without a page to look into: made with --no-viewer, or before "
                             "there was one. Delete the mask, and the same command makes both."]
        write_report(folder / "report.html", title, notes,
                     {"Cases": [{name: row.get(name) for name in fullest} for row in rows]}, sheets, pages)


def _small(path):
    picture = np.asarray(cv2.imread(str(path)))
    scale = (AREA / (picture.shape[0] * picture.shape[1])) ** 0.5  # strips are wide: as many pixels as a square has
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1]
