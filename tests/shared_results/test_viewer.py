"""A case can be looked into: what the page holds, that it stays small, and what a reader's hands do to it."""
import numpy as np
import pytest

from shared_results import viewer
from shared_results.viewer import HU_OF_GREY, View, content_of, viewer_pages, write_viewer
from tests.browser import driven, needs_browser, unpacked

SPACING = (3.0, 1.0, 2.0)


@pytest.fixture
def view():
    """A body in air, 3 mm slices; node A found a little too far forward, node B missed, and one found where none is."""
    hu = np.full((20, 50, 40), -1000, np.int16)
    hu[:, 5:45, 4:36] = 40
    hu[:, 40:43, 18:22] = 900  # a spine, posterior
    reference, prediction = np.zeros((2, *hu.shape), np.uint8)
    reference[5:8, 20:26, 8:12], prediction[5:8, 19:25, 8:12] = 1, 1
    reference[14:16, 30:36, 25:30] = 1
    prediction[2, 10:14, 30:33] = 1
    return View(hu, SPACING, {1: "lymph node"}, prediction, reference)


def test_a_page_holds_the_patient_without_the_air_and_all_layers(view, tmp_path):
    write_viewer(tmp_path, "P1", view)
    facts, layers = unpacked(viewer_pages(tmp_path, ["P1", "P2"])["P1"])
    assert list(layers) == ["ct", "prediction", "reference"]
    assert facts["start"] == [0, 5, 4] and facts["shape"] == [20, 40, 32] and facts["spacing"] == list(SPACING)
    body = np.s_[:, 5:45, 4:36]
    assert np.array_equal(layers["prediction"], view.prediction[body])
    assert np.array_equal(layers["reference"], view.reference[body])
    shown = np.array(facts["hu"])[layers["ct"]]
    assert np.abs(shown - view.hu[body]).max() <= 12 and np.abs(HU_OF_GREY - 40).min() <= 2


def test_the_worst_is_named_and_lies_where_it_is(view, tmp_path):
    facts = content_of(view).facts
    wrong = (view.prediction != view.reference)[:, 5:45, 4:36]
    first, *others = facts["places"]
    assert wrong[first["at"][0]].sum() == wrong.sum((1, 2)).max() and "axial slice with most wrong" in first["text"]
    assert all(wrong[tuple(place["at"])] for place in facts["places"])
    assert "lymph node missed" in others[0]["text"] and others[0]["at"][0] in (14, 15)
    assert any("too much" in place["text"] and place["at"][0] == 2 for place in others)


def test_without_a_reference_it_is_where_members_disagree_or_the_largest_part(view):
    found = View(view.hu, SPACING, view.names, view.prediction)
    assert [place["text"] for place in content_of(found).facts["places"]] == ["lymph node: 0.43 ml",
                                                                              "lymph node: 0.07 ml"]
    entropy = np.full(view.hu.shape, -1e-5, np.float32)
    entropy[12:14, 30:32, 20:22] = 0.69
    first = content_of(View(view.hu, SPACING, view.names, view.prediction, disagreement=entropy))
    assert first.facts["places"] == [{"text": "members disagree: nothing found", "at": [12, 25, 16]}]
    assert first.layers["disagreement"].max() == 124 and (first.layers["disagreement"] > 0).sum() == 8
    nothing = content_of(View(view.hu, SPACING, view.names, np.zeros_like(view.prediction)))
    assert nothing.facts["places"] == [] and nothing.facts["labels"][0]["at"] is None


def test_an_organ_that_nobody_contoured_is_not_wrong(view):
    names = {1: "brain stem", 2: "chiasm"}
    prediction = view.reference.copy()
    prediction[2:4, 10:14, 20:24] = 2
    for absent_is_undrawn, texts in ((True, []), (False, ["chiasm too much: 0.19 ml within 1 cm"])):
        facts = content_of(View(view.hu, SPACING, names, prediction, view.reference, None, absent_is_undrawn)).facts
        assert [place["text"] for place in facts["places"][1:]] == texts
        assert [label["undrawn"] for label in facts["labels"]] == [False, absent_is_undrawn]
        assert facts["labels"][1]["at"][0] in (2, 3)


@pytest.mark.parametrize("labels, shape, steps", [
    ("small", [34, 40, 40], [1, 1, 1]),  # with its margin
    ("wide", [30, 60, 60], [1, 2, 2]),  # too large all the same: coarser, the finest axis first
    ("none", [30, 60, 60], [1, 2, 2])])
def test_a_large_case_is_cut_out_then_made_coarser(labels, shape, steps, monkeypatch, tmp_path):
    monkeypatch.setattr(viewer, "MAX_VOXELS", 120_000)
    monkeypatch.setattr(viewer, "MARGINS_MM", (90.0, 45.0))
    hu = np.random.default_rng(0).integers(-100, 900, (30, 120, 120)).astype(np.int16)
    prediction = np.zeros(hu.shape, np.uint8)
    if labels == "small":
        hu, prediction = np.repeat(hu, 3, 0), np.repeat(prediction, 3, 0)
        prediction[40:44, 60:70, 60:70] = 1
    elif labels == "wide":
        prediction[::29, ::119, ::119] = prediction[10:20, 40:60, 40:60] = 1
    content = content_of(View(hu, (3.0, 3.0, 3.0) if labels == "small" else (4.0, 1.0, 1.0), {1: "node"}, prediction))
    assert list(content.facts["shape"]) == shape and content.facts["steps"] == steps
    if labels == "wide":
        z, y, x = content.facts["places"][0]["at"]
        assert content.layers["prediction"][z, y, x] == 1 and 20 <= y < 30 and 20 <= x < 30
        assert abs(np.array(content.facts["hu"])[content.layers["ct"]][3, 4, 5] - hu[3, 8:10, 10:12].mean()) <= 12


def test_even_noise_stays_below_10_mb(tmp_path):
    side = round(viewer.MAX_VOXELS ** (1 / 3)) + 20
    hu = np.random.default_rng(0).integers(-1024, 1500, (side,) * 3).astype(np.int16)
    write_viewer(tmp_path, "P1", View(hu, (1.0, 1.0, 1.0), {1: "node"}, (hu > 1450).astype(np.uint8)))
    assert 3e6 < viewer_pages(tmp_path, ["P1"])["P1"].stat().st_size < 10e6


def test_names_are_text_and_nothing_comes_from_elsewhere(view, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>'\"é"
    write_viewer(tmp_path, "P1", View(view.hu, SPACING, {1: evil}, view.prediction, view.reference))
    page = (tmp_path / "viewer" / "P1.html").read_text(encoding="utf-8")
    assert "<img" not in page and "http" not in page and "src=" not in page.replace("\\u003cimg src=", "")
    assert unpacked(tmp_path / "viewer" / "P1.html")[0]["labels"][0]["name"] == evil


PROBE = """
await ready;
const seen = {}, canvas = name => document.querySelector(`#${name} canvas`), where = () => [...at];
const colour = (name, row, column) => {  // of the middle of a voxel, by its place from the top left
  const {width, height} = canvas(name), plane = PLANES.find(each => each.name === name);
  return [...canvas(name).getContext("2d").getImageData(
    Math.floor((column + 0.5) / shape[plane.column] * width),
    Math.floor((row + 0.5) / shape[plane.row] * height), 1, 1).data];
};
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const point = (name, type, row, column, more) => {
  const box = canvas(name).getBoundingClientRect(), plane = PLANES.find(each => each.name === name);
  canvas(name).dispatchEvent(new PointerEvent(type, {buttons: 1, pointerId: 1, cancelable: true,
    clientX: box.left + (column + 0.5) / shape[plane.column] * box.width,
    clientY: box.top + (row + 0.5) / shape[plane.row] * box.height, ...more}));
};
HTMLCanvasElement.prototype.setPointerCapture = () => {};
seen.start = where();
seen.places = [...document.querySelectorAll("#places button")].map(button => button.textContent);
press("n"); seen.next = where(); press("p"); seen.back = where();
document.querySelectorAll("#places button")[2].click(); seen.third = where();
document.querySelector("#labels button").click(); seen.label = where();
// Scrolling: the wheel, keys, the slider.
go([6, 17, 6]);
canvas("axial").dispatchEvent(new WheelEvent("wheel", {deltaY: -1, cancelable: true})); seen.wheel = where();
canvas("coronal").dispatchEvent(new PointerEvent("pointerenter")); press("ArrowDown"); seen.arrow = where();
const slider = document.querySelector("#sagittal input"); slider.value = 9; slider.oninput(); seen.slider = where();
for (let n = 0; n < 99; n++) press("PageUp"); seen.end = where();
// A click goes there in all planes: 4 rows below superior, in the coronal plane.
point("coronal", "pointerdown", 4, 20); seen.click = where();
seen.caption = document.querySelector("#axial output").textContent;
// Layers and window: a voxel of node A, found; one at its back, missed; one of the body.
go([6, 0, 0]); on.crosshair = false; draw();
const found = () => colour("axial", 17, 5), missed = () => colour("axial", 20, 5), body = () => colour("axial", 30, 20);
seen.prediction = [found(), missed()];
press("3"); seen.difference = [found(), missed()];
press("2"); seen.without = [found(), missed()];
press("2"); press(" "); seen.hidden = [found(), missed()]; press(" ");
document.querySelector("#labels input").click(); seen.unlabelled = [found(), missed()];
document.querySelector("#labels input").click();
seen.line = [...canvas("axial").getContext("2d").getImageData(Math.round(4 / shape[2] * canvas("axial").width),
  Math.round(17.5 / shape[1] * canvas("axial").height), 1, 1).data];
seen.body = [body()];
const preset = document.getElementById("preset"); preset.value = "bone"; preset.onchange({target: preset});
seen.body.push(body()); setWindow(1000, 100); seen.body.push(body());
point("axial", "pointermove", 3, 3, {shiftKey: true, movementX: 50, movementY: -100}); seen.window = window_;
// Anterior is up in the axial plane, left in the sagittal one; superior is up.
setWindow(900, 100); go([10, 20, 16]);
seen.spine = [["axial", 36, 15], ["axial", 3, 15], ["sagittal", 10, 36], ["sagittal", 10, 3]].map(
  place => colour(...place)[0]);
press("+"); press("+"); seen.zoom = zoom; seen.sight = sight(1);
seen.aspect = PLANES.map(({canvas}) => canvas.width / canvas.height);
seen.requests = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
return seen;
"""


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_a_reader_scrolls_switches_layers_and_jumps_to_the_worst(view, tmp_path, width):
    write_viewer(tmp_path, "P1", view)
    places = [place["at"] for place in content_of(view).facts["places"]]
    seen = driven(tmp_path / "viewer" / "P1.html", PROBE, width)
    assert seen["start"] == seen["back"] == places[0] and seen["next"] == places[1] and seen["third"] == places[2]
    assert "missed" in seen["places"][1] and view.prediction[:, 5:45, 4:36][tuple(seen["label"])] in (0, 1)
    assert seen["wheel"] == [7, 17, 6] and seen["arrow"] == [7, 16, 6] and seen["slider"] == [7, 16, 9]
    assert seen["end"] == [7, 39, 9] and seen["click"] == [15, 39, 20] and seen["caption"] == "slice 15 of 20"

    grey, red, blue = (lambda rgb: max(rgb[:3]) - min(rgb[:3]) < 3), (lambda rgb: rgb[0] > rgb[2] + 40), \
        (lambda rgb: rgb[2] > rgb[0] + 40)
    for name, of_found, of_missed in (("prediction", red, grey), ("difference", red, blue), ("without", grey, blue),
                                      ("hidden", grey, grey), ("unlabelled", grey, grey)):
        assert of_found(seen[name][0]) and of_missed(seen[name][1]), name
    assert seen["line"][1] > 150 > seen["line"][2]
    assert [round(rgb[0], -1) for rgb in seen["body"]] == [130, 80, 0] and seen["window"] == [700, 900]
    assert seen["spine"] == [pytest.approx(128, abs=30), 0, pytest.approx(128, abs=30), 0]
    assert seen["zoom"] == pytest.approx(1.5625) and seen["sight"] == [pytest.approx(20.5 - 12.8), pytest.approx(25.6)]
    for aspect, (across, down) in zip(seen["aspect"], ((64, 40), (64, 60), (40, 60))):
        assert aspect == pytest.approx(across / down, rel=0.02)
    assert seen["requests"] == 0 and seen["overflow"] <= 0
