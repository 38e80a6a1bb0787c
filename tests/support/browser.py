"""Pages in a browser: their elements, and the effects of clicks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Outline", "browse", "data_of"]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Outline(HTMLParser):
    """Parses the elements of a page, and the content of its data element."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Record the data."""
        if self.found[-1:] and self.found[-1][1].get("id") == "data":
            self.data += data


def data_of(page: Path) -> Any:
    """Return the data that a page shows."""
    outline = Outline()
    outline.feed(page.read_text(encoding="utf-8"))
    return json.loads(outline.data)


CLICKS = """
<script>
const log = [];
window.addEventListener("error", (event) => log.push(`error: ${event.message}`));
window.addEventListener("load", () => {
  try {
    const press = (target) => target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    log.push(`hacked ${window.hacked}`);
    const graphs = document.querySelectorAll(".graph svg");
    log.push(`graphs ${graphs.length}`);
    log.push(`charts ${document.querySelectorAll(".chart").length}`);
    const parts = [...document.querySelectorAll(".chart *")].map((part) => part.outerHTML);
    log.push(`curves ${parts.join("").replace(/[^A-Za-z0-9 ]/g, " ")}`);
    // How far drawings reach beyond what is shown of them.
    const beyond = [...graphs].map((svg) => {
      const [shown, drawn] = [svg.viewBox.baseVal, svg.getBBox()];
      return Math.max(shown.x - drawn.x, drawn.x + drawn.width - shown.x - shown.width);
    });
    log.push(`beyond ${Math.max(0, ...beyond)}`);
    const node = document.querySelector(".graph [data-name='act']");
    if (node) { press(node); log.push(`detail ${document.getElementById("detail").textContent}`); }
    const row = document.querySelector("tr.link");
    if (row) {
      press(row);
      log.push(`chosen ${document.querySelectorAll(".graph .chosen").length}`);
      log.push(`site ${document.getElementById("detail").textContent}`);
    }
    const kept = document.querySelector("button.link");
    if (kept) {
      press(kept);
      const shown = document.getElementById("detail").textContent;
      log.push(`kept ${document.querySelectorAll(".graph .chosen").length} ${shown}`);
    }
    const scope = document.querySelector(".graph .scope");
    if (scope) {
      const before = document.querySelectorAll(".graph .box").length;
      press(scope.parentNode);
      log.push(`opened ${before} ${document.querySelectorAll(".graph .box").length}`);
    }
    const head = document.querySelector("th button");
    if (head) press(head);
    // Chromium's own windows are no narrower than 500 pixels.
    document.documentElement.style.width = "400px";
    log.push(`width ${document.body.scrollWidth}`);
  } catch (error) { log.push(`error: ${error}`); }
  document.body.replaceChildren(document.createTextNode(JSON.stringify(log)));
});
</script>
"""


def browse(page: Path) -> dict[str, str]:
    """Click on a page and return what the clicks show."""
    assert CHROMIUM is not None
    text = page.read_text(encoding="utf-8").replace("<header>", CLICKS + "<header>", 1)
    copy = page.with_name(f"{page.stem}-clicked.html")
    copy.write_text(text, encoding="utf-8")
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={page.parent / 'profile'}",
        *("--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom"),
    )
    done = subprocess.run(
        [CHROMIUM, *options, copy.as_uri()], capture_output=True, text=True, timeout=240
    )
    found = re.search(r"<body>(\[.*\])</body>", done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    entries = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return dict(entry.split(" ", 1) for entry in entries)
