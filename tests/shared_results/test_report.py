"""The page stands alone and shows absent values as absent."""
import math

import numpy as np
import pytest

from shared_data.organ_names import identity
from shared_results import organ_boxes
from shared_results.human_level import human_level
from shared_results.organ_boxes import _draw_panel as draw_panel
from shared_results.organ_boxes import draw_organ_boxes
from shared_results.organ_pictures import COLOURS, SIDE, legend, organ_sheet
from shared_results.pictures import contact_sheet, draw_curves, overlay, save_picture
from shared_results.report import write_report
from tests.browser import driven, needs_browser


def test_a_page_holds_tables_and_pictures_and_needs_no_network(tmp_path):
    mask = np.zeros((40, 30), bool)
    mask[10:20, 10:20] = True
    picture = overlay(np.linspace(0, 1, 1200).reshape(40, 30), mask, mask, side=120)
    assert picture.shape == (160, 120, 3) and (picture[..., 0] != picture[..., 1]).any()
    save_picture(tmp_path / "a.png", contact_sheet([(picture, "é 1"), (picture, "2")], columns=1))
    draw_curves([{"epoch": 1, "loss": 2.0, "lr": 0.1}, {"epoch": 2, "loss": 1.0, "val_loss": 3.0, "lr": 0.01}],
                tmp_path / "c.png", {"loss": ["loss", "val_loss"]})
    rows = [{"patient": "<b>é", "dice": math.nan, "hd95_mm": math.inf}, {"patient": "2", "dice": 0.5, "hd95_mm": 12.0},
            {"patient": "3", "dice": -1e-5, "hd95_mm": 1.0}]
    write_report(tmp_path / "r.html", "Title", ["note"], {"Cases": rows, "None": []},
                 {"slice": tmp_path / "a.png", "curves": tmp_path / "c.png"})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;é" in page and "–" in page and "∞" in page and "0.5000" in page and "-0.0000" not in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page and "None" not in page


def test_a_case_that_has_a_page_is_a_link_to_it(tmp_path):
    name = "a <b>'\"#%é"
    rows = [{"case": name, "dice": 0.5}, {"case": "none", "dice": 0.5}]
    write_report(tmp_path / "r.html", "Title", tables={"Cases": rows},
                 viewers={name: tmp_path / "viewer" / "a%#é.html"})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert ('<a href="viewer/a%25%23%C3%A9.html">a &lt;b&gt;&#39;&#34;#%é</a>' in page and page.count("<a ") == 1
            and "opens it" in page)


def test_organs_are_drawn_as_boxes_beside_the_human_level(tmp_path, monkeypatch):
    rows = [{"organ": organ, "dice": dice, "hd95_mm": distance} for organ, dice, distance in (
        ("BrainStem", 0.8, 3.0), ("BrainStem", 0.9, math.inf), ("Parotid R", 0.7, 4.0), ("chiasm", math.nan, math.inf))]
    observers, human = human_level()
    assert "oncologist" in observers and human[identity("Brainstem")]["dice"] == pytest.approx(0.89, abs=0.01)
    drawn = []
    monkeypatch.setattr(organ_boxes, "_draw_panel", lambda axes, *what: drawn.append(what) or draw_panel(axes, *what))
    draw_organ_boxes(rows, tmp_path / "o.png", human)
    assert [values for values, _, _ in drawn] == [[[0.8, 0.9], [0.7]], [[3.0], [4.0]]]
    assert all(level["n_dice"] == 19 for _, levels, _ in drawn for level in levels)
    draw_organ_boxes(rows[3:], tmp_path / "none.png", {})
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("o.png", "none.png"))


def test_an_organ_sheet_names_the_organs_it_shows_in_colours_of_their_own():
    labels = np.zeros((2, 8, 16), np.uint8)
    labels[1, 2:4], labels[1, 4:6], labels[0, 0] = 1, 23, 5
    sheet = organ_sheet(np.zeros((2, 8, 16)), {"reference": labels}, [1], {1: "eye", 5: "unseen", 23: "mandible"}, 2.0)
    strip = legend({1: "eye", 23: "mandible"}, SIDE)
    assert sheet.shape == (22 + SIDE + len(strip), SIDE, 3) and (sheet[-len(strip):] == strip).all()
    assert all((strip == COLOURS[label]).all(2).any() for label in (1, 23)) and not (strip == COLOURS[5]).all(2).any()
    assert len({tuple(colour) for colour in COLOURS[1:25]}) == 24


# Appended to a page: click on the second header twice, then write down what a reader would see.
PROBE = """
const table = document.querySelector("table"), head = table.querySelectorAll("th")[1], seen = {};
const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
seen.drawn = column(); head.click(); seen.up = column(); head.click(); seen.down = column();
seen.pictures = [...document.images].map(image => image.complete && image.naturalWidth > 0);
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.requests = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
return seen;
"""


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])  # 500 is the narrowest that headless Chromium makes
def test_a_browser_shows_the_page_from_disk_and_sorts_its_tables(tmp_path, width):
    save_picture(tmp_path / "a.png", np.full((40, 900, 3), 90, np.uint8))
    rows = [{"patient": f"P{k}", "dice": value, **{f"wide column {n}": 1.0 for n in range(12)}}
            for k, value in enumerate((0.9, math.inf, 0.05, 110.0, -1.5, -0.5))]
    write_report(tmp_path / "r.html", "Title", ["note"], {"Cases": rows}, {"wide": tmp_path / "a.png"})
    seen = driven(tmp_path / "r.html", PROBE, width)
    assert seen["drawn"] == ["0.9000", "∞", "0.0500", "110.0", "-1.5000", "-0.5000"]
    assert seen["up"] == ["-1.5000", "-0.5000", "0.0500", "0.9000", "110.0", "∞"] and seen["down"] == seen["up"][::-1]
    assert seen["pictures"] == [True] and seen["overflow"] <= 0 and seen["requests"] == 0
