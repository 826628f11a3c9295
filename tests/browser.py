"""Pages driven in headless Chromium, from disk; what a reader would see comes back."""
import json
import shutil
import subprocess

import pytest

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
                           probe.as_uri()], capture_output=True, text=True, timeout=120)
    seen = json.loads(done.stdout.split("SEEN")[1])
    assert not seen.pop("errors") and "failed" not in seen, seen
    return seen
