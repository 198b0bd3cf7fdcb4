"""The reviewers' page and a prediction's report, in a browser (`apt install chromium-driver`).

`STS_SHOTS` names a folder that screenshots are put in, to be looked at.
"""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

import sts_utils
from sts_utils import config, store
from sts_utils.report import page

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DRIVER and BROWSER), reason="no Chromium with its driver on this system"
    ),
]
NARROW, WIDE = 400, 1400
#: What a page must have for a keyboard and a screen reader; each gives what is wrong.
ACCESSIBLE = """
const named = e => (e.textContent + (e.getAttribute('aria-label') || '')).trim();
const levels = [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]));
return [
  ...[...document.images].filter(e => !e.alt).map(e => 'no alt text: ' + e.src.slice(0, 80)),
  ...[...document.images].filter(e => !e.naturalWidth)
    .map(e => 'not loaded: ' + e.src.slice(0, 80)),
  ...[...document.querySelectorAll('a, button')].filter(e => !named(e) && !e.querySelector('img'))
    .map(e => 'no name: ' + e.outerHTML.slice(0, 80)),
  ...[...document.querySelectorAll('select, input')].filter(e => !e.labels.length)
    .map(e => 'no label: ' + e.outerHTML.slice(0, 80)),
  ...[...document.querySelectorAll('table')].filter(e => e.tHead && !e.tHead.querySelector('th'))
    .map(e => 'no header: ' + e.outerHTML.slice(0, 80)),
  ...[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex < 0)
    .map(e => 'no key scrolls it'),
  ...(levels.filter(l => l === 1).length === 1 ? [] : ['not one h1']),
  ...levels.filter((l, i) => i && l > levels[i - 1] + 1).map(l => 'a heading level is left out'),
  ...(document.documentElement.lang ? [] : ['no language']),
];
"""
#: Pixels of the smallest text.
SMALLEST = """
const size = e => parseFloat(getComputedStyle(e).fontSize);
return Math.min(...[...document.querySelectorAll('p, td, li')].map(size));
"""
#: Cells of the claims that are not filtered out.
SHOWN = """
const rows = [...document.querySelectorAll('#judged tbody tr')].filter(row => !row.hidden);
return rows.map(row => [...row.cells].map(cell => cell.textContent.trim()));
"""
#: The least contrast of text with what lies behind it (WCAG asks for 4.5), and of what.
CONTRAST = """
const light = c => [.2126, .7152, .0722].reduce((sum, weight, i) => {
  const v = c[i] / 255;
  return sum + weight * (v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
}, 0);
const colour = text => text.match(/[\\d.]+/g).map(Number);
const page = getComputedStyle(document.body).backgroundColor;
const plain = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
const behind = e => {
  for (; e; e = e.parentElement) {
    const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > .9) return c;
  }
  return plain;
};
let least = [21, ''];
for (const e of document.querySelectorAll('p, td, th, a, h1, h2, dt, dd, li, span, button')) {
  if (!e.textContent.trim() || !e.offsetParent || e.closest('mark')) continue;
  const [a, b] = [light(colour(getComputedStyle(e).color)), light(behind(e))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 120)];
}
return least;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The committed run's page, written anew beside its figures; a small prediction's report."""
    folder = tmp_path_factory.mktemp("pages")
    questions = [{"question": f"How much is {i} + 1?", "answer": str(i + 1)} for i in range(16)]
    shown = shutil.copytree(store.ROOT / "figures/smol", folder / "figures/smol")
    (shown / "index.html").write_text(page.html(config.load("smol"), shown), encoding="utf-8")
    small = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False, "n": 20}
    data, domains = store.ROOT / "data/example.jsonl", {"code": "code-io", "own": questions}
    small |= {"shots": 2, "queries": 6, "seeds": (0, 1), "probe": 2, "domains": domains}
    found = sts_utils.predict(data, **small)
    report = found.write(folder / "prediction")
    return {"run": shown / "index.html", "prediction": Path(next(iter(report)))}


@pytest.fixture(scope="module", params=["light", "dark"])
def browser(request, tmp_path_factory):
    options, downloads = webdriver.ChromeOptions(), tmp_path_factory.mktemp("downloads")
    options.binary_location = BROWSER
    for told in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(told)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    features = [{"name": "prefers-color-scheme", "value": request.param}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.downloads, driver.theme = downloads, request.param
    yield driver
    driver.quit()


def opened(browser, path: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == NARROW}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    if shots := os.environ.get("STS_SHOTS"):
        name = f"{path.parent.name}-{width}-{browser.theme}.png"
        browser.save_screenshot(str(Path(shots) / name))


def requests(browser) -> list[str]:
    """Addresses that the page asked for."""
    told = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [
        m["params"]["request"]["url"] for m in told if m["method"] == "Network.requestWillBeSent"
    ]
    return [address[:200] for address in sent]


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("name", ["run", "prediction"])
def test_a_page_opens_whole_and_alone(browser, pages, name, width):
    opened(browser, pages[name], width)
    assert browser.get_log("browser") == []
    assert {address.partition(":")[0] for address in requests(browser)} <= {"file", "data"}
    assert browser.execute_script(ACCESSIBLE) == []
    over = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(over) <= 0  # nothing is wider than the window
    assert browser.execute_script(SMALLEST) >= 12
    ratio, where = browser.execute_script(CONTRAST)
    assert ratio >= 4.5, where


def test_claims_are_filtered_sorted_and_taken_along(browser, pages):
    opened(browser, pages["run"], WIDE)
    rows = SHOWN
    every = browser.execute_script(rows)
    verdict = Select(browser.find_element("id", "verdict"))
    verdict.select_by_visible_text("agrees")
    agreeing = browser.execute_script(rows)
    assert 0 < len(agreeing) < len(every) and {row[-1] for row in agreeing} == {"agrees"}
    assert browser.execute_script("return listed.textContent") == f"{len(agreeing)} of {len(every)}"
    verdict.select_by_visible_text("all")
    field = browser.find_element("id", "containing")
    field.send_keys(every[-1][1].upper())
    assert {row[1] for row in browser.execute_script(rows)} == {every[-1][1]}
    field.send_keys("\ue009a\ue009\ue003")  # Ctrl A, Delete
    heading = browser.find_element("css selector", "#judged th:nth-child(4) button")
    heading.send_keys("\n")  # by the keyboard
    values = [float(row[3].split()[0]) for row in browser.execute_script(rows) if row[3][0] != "–"]
    assert len(values) > 10 and values == sorted(values)
    heading.send_keys("\n")
    values = [float(row[3].split()[0]) for row in browser.execute_script(rows) if row[3][0] != "–"]
    assert values == sorted(values, reverse=True)
    browser.find_element("id", "csv").click()
    saved = browser.downloads / "smol.csv"
    for _ in range(100):
        if saved.exists() and saved.stat().st_size:
            break
        browser.execute_async_script("setTimeout(arguments[0], 100)")
    numbers = list(csv.DictReader(io.StringIO(saved.read_text(encoding="utf-8"))))
    saved.unlink()
    tables = {result.name for result in page.RESULTS if result.kind == "table"}
    assert {row["section"] for row in numbers} >= {"claims", *tables} - {*_control()}
    assert sum(row["section"] == "claims" for row in numbers) == 6 * len(every)


def _control() -> list[str]:
    return [result.name for result in page.RESULTS if result.name.startswith("control_")]
