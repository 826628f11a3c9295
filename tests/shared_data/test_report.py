"""The page stands alone and shows absent values as absent."""
import math

import numpy as np

from shared_data.pictures import contact_sheet, draw_curves, overlay, save_picture
from shared_data.report import write_report


def test_a_page_holds_tables_and_pictures_and_needs_no_network(tmp_path):
    mask = np.zeros((40, 30), bool)
    mask[10:20, 10:20] = True
    picture = overlay(np.linspace(0, 1, 1200).reshape(40, 30), mask, mask, side=120)
    assert picture.shape == (160, 120, 3) and (picture[..., 0] != picture[..., 1]).any()
    save_picture(tmp_path / "a.png", contact_sheet([(picture, "é 1"), (picture, "2")], columns=1))
    draw_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], tmp_path / "c.png", {"loss": ["loss"]})
    rows = [{"patient": "<b>é", "dice": math.nan, "hd95_mm": math.inf}, {"patient": "2", "dice": 0.5, "hd95_mm": 12.0}]
    write_report(tmp_path / "r.html", "Title", ["note"], {"Cases": rows, "None": []},
                 {"slice": tmp_path / "a.png", "curves": tmp_path / "c.png"})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;é" in page and "–" in page and "∞" in page and "0.5000" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page and "None" not in page
