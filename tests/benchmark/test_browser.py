"""The report in a real browser: nothing sticks out, and its curves can be read off."""

import json
import re

import pytest

from gaze_torchrl.benchmark.report import write_report
from tests.benchmark.support import synthetic
from tests.viewing.test_browser import CHROMIUM, browse

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: bash scripts/install_browser.sh")

PROBE = """
<script>
addEventListener("load", () => {
  const found = {};
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  const svg = one(".chart svg"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left, clientY: box.top + 5 }));
  found.read = one(".value").textContent;
  found.band = getComputedStyle(one(".band")).fill !== "none";
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def test_can_be_read(tmp_path):
    curves = {("one", name): [[0.1, 0.2], [0.3, 0.4]] for name in ("base", *(f"variant_{i}" for i in range(18)))}
    write_report(synthetic(tmp_path, curves))
    page = tmp_path / "report.html"
    page.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    dom = browse(page, tmp_path, "dump-dom", "window-size=1200,2000")
    found = json.loads(re.search(r"data-found=\"([^\"]*)\"", dom.stdout)[1].replace("&quot;", '"'))
    assert found == {"wide": True, "read": "0.2 / 0.2", "band": True}
