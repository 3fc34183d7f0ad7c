"""The report in a real browser: no console message, sorting, filtering, opening a class, narrow screens."""

import json
import re
import shutil
import subprocess

import pytest

from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.inputs.images import ImageSource
from cxrlt.reports.run_report import write_report
from tiny import make_simulated_runs

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: sudo apt install chromium"),
]
PROBE = """
<script>
addEventListener("load", async () => {
  const board = document.getElementById("leaderboard-table-1");
  const shown = () => [...board.tBodies[0].rows].filter((row) => !row.hidden);
  const names = () => shown().map((row) => row.cells[0].textContent);
  const heading = [...board.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "mAP");
  const button = board.tHead.rows[0].cells[heading].querySelector("button");
  const found = { background: getComputedStyle(document.body).backgroundColor };
  button.click();
  found.descending = names();
  button.click();
  found.ascending = names();
  found.sort = board.tHead.rows[0].cells[heading].getAttribute("aria-sort");
  const filter = document.querySelector("[data-filter=leaderboard-table-1]");
  filter.value = "model2";
  filter.dispatchEvent(new Event("input"));
  found.filtered = names();
  found.open_before = document.getElementById("class-1").open;
  location.hash = "#class-1";
  await new Promise((resolve) => setTimeout(resolve, 100));
  found.open_after = document.getElementById("class-1").open;
  document.querySelectorAll("details").forEach((detail) => { detail.open = true; });
  found.width = document.scrollingElement.scrollWidth;
  document.documentElement.dataset.found = JSON.stringify(found);
});
</script></body>"""
HOST = """<iframe id="page" src="page.html" style="width: {width}px; height: 2000px; border: 0"></iframe>
<script>
setInterval(() => {{
  const found = document.getElementById("page").contentDocument.documentElement.dataset.found;
  if (found) document.title = found;
}}, 50);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the text of a report of six models and an ensemble."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("report"))
    names = [f"model{number}" for number in range(6)]
    for seed, name in enumerate(names):
        runs.add_run(name, 0.5 + 0.4 * seed, seed)
    make_ensemble(runs.challenge, runs.workspace, "mix", tuple(names), kind="mean")
    return write_report(ImageSource(runs.challenge, runs.workspace)).read_text()


def browse(page, folder, width, *, dark=False):
    """Open the page in a frame of this width; return what PROBE found, and the console messages."""
    (folder / "page.html").write_text(page.replace("</body>", PROBE))
    (folder / "host.html").write_text(HOST.format(width=width))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", scheme]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *flags, f"file://{folder / 'host.html'}"], capture_output=True, text=True, timeout=300
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1]), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_tables_sort_and_filter_and_a_link_opens_its_class(page, tmp_path):
    found, messages = browse(page, tmp_path, 1280)
    assert messages == []
    models = [f"model{number}" for number in range(6)]
    assert [name for name in found["ascending"] if name != "mix"] == models
    assert found["descending"] == found["ascending"][::-1]
    assert found["sort"] == "ascending"
    assert found["filtered"] == ["model2"]
    assert (found["open_before"], found["open_after"]) == (False, True)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways(page, tmp_path, width):
    found, _ = browse(page, tmp_path, width)
    assert found["width"] <= width


def test_the_page_follows_the_colour_scheme(page, tmp_path):
    light, _ = browse(page, tmp_path, 1280)
    dark, messages = browse(page, tmp_path, 1280, dark=True)
    assert messages == []
    assert light["background"] == "rgb(255, 255, 255)"
    assert dark["background"] != light["background"]
