"""A predicted cohort at a glance: cases.csv, and report.html with contact sheets."""
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from shared_data.files import write_table
from shared_data.named_types import Row
from shared_results.pictures import contact_sheet, save_picture
from shared_results.report import write_report

PER_SHEET = 32  # overlays
WIDTH = 1200  # pixels of a sheet
AREA = 300 * 300  # pixels of an overlay in it


def write_cohort(folder: Path, title: str, notes: Sequence[str], rows: Sequence[Row]) -> None:
    """Write both from the rows of the cases, in their order; `folder` holds the overlays of the finished ones."""
    fullest = max(rows, key=len)  # failed cases have fewer columns
    columns = list(fullest)
    write_table(folder / "cases.csv", rows, columns)
    done = [row["case"] for row in rows if row["status"] == "done"]
    with tempfile.TemporaryDirectory() as place:
        sheets = {}
        for start in range(0, len(done), PER_SHEET):
            names = done[start:start + PER_SHEET]
            sheet = Path(place) / f"{start}.png"
            pictures = [(_small(folder / f"{name}_overlay.png"), name) for name in names]
            widest = max(picture.shape[1] for picture, _ in pictures)
            save_picture(sheet, contact_sheet(pictures, max(1, WIDTH // widest)))
            sheets[f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]] = sheet
        pages = {name: page for name in done if (page := folder / f"{name}_viewer.html").exists()}
        if len(pages) < len(done):
            notes = [*notes, f"{len(done) - len(pages)} without a page to look into: made with --no-viewer, or before "
                             "there was a viewer. Delete the mask, and the same command makes both."]
        write_report(folder / "report.html", title, notes,
                     {"Cases": [{name: row.get(name) for name in columns} for row in rows]}, sheets, pages)


def _small(path):
    picture = np.asarray(cv2.imread(str(path)))
    scale = (AREA / (picture.shape[0] * picture.shape[1])) ** 0.5  # sheets differ in shape: equal areas
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1]
