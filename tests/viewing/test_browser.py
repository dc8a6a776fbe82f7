"""The page in a real browser: it renders, in light and dark, and its script does what it promises."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaze_torchrl.viewing.page import view_run
from tests.training.support import tiny_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: bash scripts/install_browser.sh")

# Uses the page as a reader would, and writes what came of it into an attribute.
PROBE = """
<script>
addEventListener("load", () => {
  const found = {}, visible = () => all(".triplet").filter((card) => !card.hidden);
  found.pictures = all("img.video").every((image) => image.complete && image.naturalWidth > 0);
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  const before = one(".video").src;
  one("#step").value = 7;
  one("#step").dispatchEvent(new Event("input"));
  found.step = one("#now").textContent;
  found.moved = one(".video").src !== before;
  one("#play").click();
  found.playing = one("#play").textContent;
  one("#play").click();
  found.first = [visible().length, one("#range").textContent];
  one("#on").click();
  found.second = one("#range").textContent;
  one("#order").value = "difference";
  one("#order").dispatchEvent(new Event("change"));
  found.differences = all(".triplet").map((card) => Number(card.dataset.difference));
  found.sorted = one("#range").textContent;
  one("#gaze").click();
  found.plain = one(".triplets").classList.contains("plain");
  const svg = one("#curves .chart svg"), box = svg.getBoundingClientRect();
  const event = new PointerEvent("pointermove", { clientX: box.right, clientY: box.top + 5 });
  svg.dispatchEvent(event);
  found.read = one("#curves .value").textContent;
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  found.left = one("#curves .value").textContent;
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    quiet = ["no-first-run", "disable-gpu", "disable-quic", "disable-background-networking"]
    quiet += ["disable-component-update", "disable-sync", "no-sandbox", "hide-scrollbars", "enable-logging=stderr"]
    flags = [f"--{one}" for one in (*quiet, f"user-data-dir={folder / 'profile'}", *options)]
    done = subprocess.run(
        [CHROMIUM, "--headless", *flags, page.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    return done


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return view_run(tiny_run(tmp_path_factory.mktemp("runs") / "run"))


def screenshot(page, folder, scheme, width=1200):
    path = folder / f"{scheme}.png"
    setting = f"blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    browse(page, folder, f"screenshot={path}", f"window-size={width},2400", setting)
    return np.asarray(Image.open(path).convert("L")).astype(float)


def test_renders_in_light_and_dark(page, tmp_path):
    light, dark = screenshot(page, tmp_path, "light"), screenshot(page, tmp_path, "dark")
    assert light.shape == dark.shape
    # The paper is what there is most of; ink stands out from it.
    assert np.median(light) > 240
    assert np.median(dark) < 40
    assert (light < 90).sum() > 2000
    assert (dark > 170).sum() > 2000


@pytest.mark.parametrize("width", [1200, 390])
def test_can_be_used(page, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    # Chromium's own window is never narrower than 500 pixels.
    dom = browse(
        probed if width > 500 else _framed(probed, frame, width), tmp_path, "dump-dom", "window-size=1200,2000"
    )
    found = json.loads(re.search(r"data-found=\"([^\"]*)\"", dom.stdout)[1].replace("&quot;", '"'))
    assert found["pictures"]
    assert found["wide"], "nothing sticks out to the right"
    assert found["step"] == "step 7"
    assert found["moved"]
    assert found["playing"] == "Pause"
    assert found["first"] == [6, "1 to 6 of 24"]
    assert found["second"] == "7 to 12 of 24"
    assert found["sorted"] == "1 to 6 of 24"
    assert found["differences"] == sorted(found["differences"], reverse=True)
    assert found["plain"]
    assert found["read"] == f"{found['left']} at 256"


def _framed(page: Path, frame: Path, width: int) -> Path:
    """A page that shows another one in a frame as wide as a phone, and takes over what it found."""
    quoted = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(f"""<body><iframe srcdoc="{quoted}" style="width: {width}px; height: 800px"></iframe>
<script>addEventListener("load", () => {{
  document.body.dataset.found = document.querySelector("iframe").contentDocument.body.dataset.found;
  document.querySelector("iframe").remove();
}});</script></body>""")
    return frame
