"""The pages of a run in a browser, as wide as a telephone and as a screen: nothing runs over."""

import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
MEASURE = """<script>addEventListener("load", () => {
const ways = e => getComputedStyle(e).overflowX;
const scrolls = e => e && (/auto|scroll/.test(ways(e)) || scrolls(e.parentElement));
const seen = [...document.querySelectorAll("table, img, svg, pre, nav, p")];
const over = seen.filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !scrolls(e.parentElement)).map(e => e.tagName + " " + e.textContent.slice(0, 60));
const page = document.documentElement.scrollWidth, found = {width: innerWidth, page, over};
parent.postMessage(JSON.stringify({...found, seen: seen.length}), "*")})</script>"""
FRAME = """<iframe src="page.html" style="width: {width}px; height: 900px"></iframe>
<script>addEventListener("message", e => document.body.append("<<" + e.data + ">>"))</script>"""
QUIET = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --dump-dom"
QUIET += " --disable-background-networking --proxy-server=127.0.0.1:9"  # nothing of the net
QUIET += " --virtual-time-budget=20000"


def measured(html: str, width: int, folder) -> dict:
    (folder / "page.html").write_text(html.replace("</body>", MEASURE + "</body>"), "utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    words = [BROWSER, *QUIET.split(), f"--user-data-dir={folder}/browser", f"{folder}/frame.html"]
    for _ in range(3):  # a browser on a busy machine may dump a page that has not spoken yet
        said = subprocess.run(words, capture_output=True, text=True, timeout=120)
        if found := re.search("&lt;&lt;(.*)&gt;&gt;", said.stdout):
            return json.loads(found[1])
    raise AssertionError(f"no page in {len(said.stdout)} characters: {said.stderr[-500:]}")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", (400, 1400))
def test_nothing_runs_over_the_page(tables, tmp_path, width):
    for page in sorted(tables.glob("*.html")):
        found = measured(page.read_text(encoding="utf-8"), width, tmp_path)
        assert found["width"] == width and found["seen"] > 5, page.name
        assert found["page"] <= width and not found["over"], (page.name, found)
    wide = "<html><body><main><table><td>" + "w" * 999 + "</table></main></body></html>"
    assert measured(wide, width, tmp_path)["over"]
