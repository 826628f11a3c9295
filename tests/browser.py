"""Pages driven in headless Chromium, from disk, and what the viewer's pages hold."""
import base64
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from shared_data.volume import read_volume, to_lps

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome on this machine")


def driven(page, script, width=1200):
    """What the body of an async function, run when the page is there, returns; through JSON. Errors of the page are
    raised."""
    probe = page.with_name(f"probe-{page.name}")
    script = ("<script>const errors = []; addEventListener('error', event => errors.push(event.message));"
              f"(async () => {{{script}}})().catch(error => ({{failed: String(error)}}))"
              ".then(seen => { document.body.textContent = 'SEEN' + JSON.stringify({errors, ...seen}) + 'SEEN'; });"
              "</script>")
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{script}</body>"), encoding="utf-8")
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
                           f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=10000", "--dump-dom",
                           probe.as_uri()], check=False, capture_output=True, text=True, timeout=120)
    seen = json.loads(done.stdout.split("SEEN")[1])
    assert not seen.pop("errors") and "failed" not in seen, seen
    return seen


def unpacked(page):
    """(facts, {layer: uint8 (z, y, x)}) of a page of the viewer."""
    text = page.read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])
    packed = re.findall(r'data-name="(\w+)">(.*?)</script>', text)
    return facts, {name: np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8).reshape(facts["shape"])
                   for name, data in packed}


def check_viewer(scored, case, ct, window_hu=(-1000, 1500), difference=np.max, **labels):
    """The report in `scored` refers to a page of the case, which holds the CT, as exactly as 8 bits can within a window
    of HU, and these labels, voxel by voxel; all are paths. difference: np.max, or np.median of a resampled CT."""
    assert f'<a href="viewer/{case}.html">{case}</a>' in (scored / "report.html").read_text(encoding="utf-8")
    facts, layers = unpacked(scored / "viewer" / f"{case}.html")
    assert facts["steps"] == [1, 1, 1]
    box = tuple(slice(first, first + size) for first, size in zip(facts["start"], facts["shape"]))
    expected, shown = (np.clip(hu, *window_hu) for hu in (
        sitk.GetArrayFromImage(to_lps(read_volume(ct)))[box].astype(int), np.array(facts["hu"])[layers["ct"]]))
    assert difference(np.abs(expected - shown)) <= 13
    for name, path in labels.items():
        array = sitk.GetArrayFromImage(to_lps(read_volume(path)))
        assert np.array_equal(layers[name], array[box]) and (layers[name] > 0).sum() == (array > 0).sum(), name
    return facts, layers
