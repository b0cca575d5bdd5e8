"""The notebooks in the real JupyterLab and in a real browser, as a reader sees them: python tools/browser.py [NOTEBOOK …]

Starts JupyterLab on loopback over a copy of the working tree, opens every notebook (or those named) in headless Chromium, and looks for
mathematics that did not render, figures that are missing, and cells that show an error or a warning. Runs the quickstart from the menu.
Then opens every page of the documentation site, where it is built, at the width of a desk and of a phone. Counts come last.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import claims

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_docs" / "html"
QUICKSTART = "nbs/tutorials/quickstart.ipynb"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60  # seconds without anything new before a page is taken as it is
LOADING = 240  # seconds for a page to load, on a busy machine
WIDTHS = (1280, 390)  # a desk, a phone
SERVER = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token=",
          "--expose-app-in-browser", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
          "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
PLACES = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
          "IPYTHONDIR")  # fmt: skip


def chromium() -> str | None:
    "The browser of this machine."
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing() -> str | None:
    "What this machine lacks for such a run."
    if not chromium():
        return "needs chromium (apt-get install chromium)"
    if not find_spec("playwright"):
        return "needs playwright (pip install -e '.[browser]')"
    return (
        None
        if shutil.which("jupyter-lab", path=Path(sys.executable).parent)
        else "needs jupyterlab (pip install -e '.[dev]')"
    )


# ---------------------------------------------------------------- the server and the browser


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    "The files of the working tree elsewhere, so that JupyterLab saves nothing into it."
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in filter(None, names.split("\n")):
            if (ROOT / name).is_file():
                (Path(folder) / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / "tree" / name)
        yield Path(folder)


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    "A server with settings of its own; its address."
    env = os.environ | {name: str(folder / name) for name in PLACES}
    env.pop("MPLBACKEND", None)  # figures belong into the notebook, whatever this shell prefers
    settings = folder / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        '{"windowingMode": "none"}'
    )  # every cell rendered at once: three times quicker than scrolling to it
    with (folder / "server.log").open("w") as log:
        command = [Path(sys.executable).parent / "jupyter-lab", *SERVER, f"--ServerApp.root_dir={folder / 'tree'}"]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield address_of(server, folder)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def address_of(server: subprocess.Popen, folder: Path, patience: float = LOADING) -> str:
    "Where the server listens, once it does."
    until = time.monotonic() + patience
    while time.monotonic() < until and server.poll() is None:
        for path in (folder / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # half written
                pass
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{(folder / 'server.log').read_text()[-2000:]}")


@contextmanager
def browser():
    "Headless Chromium with a fresh profile."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


# ---------------------------------------------------------------- what a notebook holds, and what is on the screen

FORMULA = re.compile(r"\$\$.+?\$\$|\\begin\{(\w+\*?)\}.+?\\end\{\1\}|(?<![\\$])\$(?!\s*\$).+?(?<!\\)\$", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def formulas(markdown: str) -> int:
    "How many formulas a text of Markdown has."
    return len(FORMULA.findall(CODE.sub("", markdown)))


def expected(page: str, tree: Path | None = None) -> list[dict]:
    "For each cell the formulas and figures that a reader must see."
    cells = json.loads(((tree or ROOT) / page).read_text(encoding="utf-8"))["cells"]
    wanted = []
    for cell in cells:
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts = (
            ["".join(cell["source"])]
            if cell["cell_type"] == "markdown"
            else ["".join(data.get("text/markdown", "")) for data in shown]
        )
        latex = sum("text/latex" in data and "text/html" not in data for data in shown)
        wanted.append(
            {"math": sum(map(formulas, texts)) + latex, "figures": sum("image/png" in data for data in shown)}
        )
    return wanted


SEE = """wanted => {
  const notebook = jupyterapp.shell.currentWidget.content, seen = {};
  const count = (cell, what) => cell.querySelectorAll(what).length;
  notebook.widgets.forEach((widget, index) => {
    const cell = widget.node;
    if (!wanted.includes(index) || !cell.isConnected || widget.isPlaceholder()) return;
    let source = 0;
    for (const rendered of cell.querySelectorAll('.jp-RenderedMarkdown')) {
      if (rendered.closest('.lm-mod-hidden')) continue;
      const words = document.createTreeWalker(rendered, NodeFilter.SHOW_TEXT);
      while (words.nextNode()) {
        const text = words.currentNode;
        source += text.data.includes('$') && !text.parentElement.closest('code, mjx-container');
      }
    }
    const plain = widget.model.type !== 'markdown' || !widget.model.sharedModel.getSource().trim();
    const pictures = [...cell.querySelectorAll('.jp-OutputArea-output img')];
    seen[index] = {
      ready: plain || (cell.querySelector('.jp-RenderedMarkdown')?.childElementCount ?? 0) > 0,
      code: cell.classList.contains('jp-CodeCell'),
      math: count(cell, 'mjx-container'),
      wrong: count(cell, 'mjx-merror, [data-mjx-error]'),
      source,
      figures: pictures.filter(picture => picture.complete && picture.naturalWidth > 0).length,
      tables: count(cell, '.jp-RenderedHTML table'),
      errors: count(cell, '[data-mime-type="application/vnd.jupyter.error"]'),
      warnings: count(cell, '[data-mime-type="application/vnd.jupyter.stderr"]'),
      bars: count(cell, '.progress-bar'),
      prompt: cell.querySelector('.jp-InputPrompt')?.textContent ?? '',
      text: [...cell.querySelectorAll('.jp-OutputArea-output')].map(e => e.textContent).join(' ').slice(0, 300),
    };
  });
  return seen;
}"""
LAST = """() => {
  const notebook = jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = notebook.widgets.length - 1;
  notebook.mode = 'command';
  notebook.activate();
}"""
SCROLL = "index => { jupyterapp.shell.currentWidget.content.scrollToItem(index); }"


def satisfied(cell: dict | None, wanted: dict) -> bool:
    "Is there in a cell what must be seen?"
    return (
        bool(cell)
        and cell["ready"]
        and cell["math"] >= wanted["math"]
        and cell["figures"] >= wanted["figures"]
        and not cell["source"]
    )


def look_through(page, wanted: list[dict]) -> dict[int, dict]:
    "Scroll to what is not there yet until everything is; each cell as it was seen last."
    cells, until, lacking = {}, time.monotonic() + PATIENCE, [*range(len(wanted))]
    while lacking and time.monotonic() < until:
        cells |= {int(key): cell for key, cell in page.evaluate(SEE, lacking).items()}
        left = [key for key in lacking if not satisfied(cells.get(key), wanted[key])]
        if len(left) < len(lacking):
            lacking, until = left, time.monotonic() + PATIENCE
        if not lacking:
            break
        page.evaluate(SCROLL, lacking[0])
        page.wait_for_timeout(300)
    return cells


def judged(name: str, cells: dict[int, dict], wanted: list[dict]) -> list[str]:
    "What a reader would stumble over."
    wrong = []
    for key, want in enumerate(wanted):
        cell = cells.get(key)
        if cell is None:
            continue
        if cell["math"] < want["math"]:
            wrong.append(f"{name}, cell {key}: {cell['math']} of {want['math']} formulas rendered")
        if cell["wrong"] or cell["source"]:
            wrong.append(f"{name}, cell {key}: mathematics with an error, or left as source")
        if cell["figures"] < want["figures"]:
            wrong.append(f"{name}, cell {key}: {cell['figures']} of {want['figures']} figures shown")
        if cell["errors"] or cell["warnings"]:
            wrong.append(f"{name}, cell {key}: an error or a warning: {cell['text'][:200]}")
    absent = [key for key in range(len(wanted)) if key not in cells]
    return wrong + [f"{name}: {len(absent)} cells never shown, from {first} on" for first in absent[:1]]


# ---------------------------------------------------------------- JupyterLab


class Lab:
    "One session of JupyterLab in a tab."

    def __init__(self, opened, address: str, tree: Path, pictures: Path | None = None):
        self.tree, self.pictures = tree, pictures
        self.page = opened.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(1000 * LOADING)
        self.counts, self.wrong = Counter(), []
        self.page.route(lambda url: urlparse(url).hostname not in ("127.0.0.1", "localhost"), self.refuse)
        self.page.goto(f"{address}lab?reset")
        self.page.wait_for_selector("#jp-MainMenu")
        self.page.wait_for_function("window.jupyterapp")

    def refuse(self, route) -> None:
        "Nothing is loaded from another machine."
        self.counts["refused requests to other machines"] += 1
        route.abort()

    def open(self, name: str, kernel: bool) -> None:
        command = "([path, kernel]) => jupyterapp.commands.execute('docmanager:open', {path, kernelPreference: {shouldStart: kernel}})"
        self.page.evaluate(f"async args => {{ await ({command})(args); }}", [name, kernel])
        self.page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell", state="attached")

    def close(self) -> None:
        self.page.evaluate(
            "() => { jupyterapp.shell.currentWidget.context.model.dirty = false; jupyterapp.shell.currentWidget.close(); }"
        )
        self.page.wait_for_selector(".jp-NotebookPanel", state="detached")

    def read(self, name: str) -> None:
        "Open a notebook, scroll through it, close it."
        self.open(name, kernel=False)
        wanted = expected(name, self.tree)
        cells = look_through(self.page, wanted)
        self.wrong += judged(name, cells, wanted)
        self.counts += Counter({"notebooks opened": 1, "cells": len(cells)})
        self.counts += Counter({what: sum(cell[key] for cell in cells.values()) for what, key in NAMES.items()})
        if self.pictures:
            self.draw(name)
        self.close()

    def draw(self, name: str) -> None:
        "The whole notebook as one picture."
        height = self.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
        self.page.set_viewport_size({"width": 1280, "height": min(height + 120, 16_000)})
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.pictures / f"{Path(name).stem}.png")
        self.page.set_viewport_size({"width": 1280, "height": 1000})

    def menu(self, *path: str) -> None:
        "Click through the menus."
        first, *rest = path
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{first}$")).click()
        for word in rest:
            self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{word}$")).click()

    def idle(self, patience: float) -> None:
        "Wait until the kernel has nothing left to do."
        self.page.wait_for_function("""() => {
          const panel = jupyterapp.shell.currentWidget;
          const cells = panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim());
          const failed = cells.some(c => c.model.outputs.toJSON().some(o => o.output_type === 'error'));
          const done = cells.every(c => c.model.executionCount !== null && c.model.executionState !== 'running');
          return panel.sessionContext.session?.kernel?.status === 'idle' && (done || failed);
        }""", timeout=patience * 1000, polling=500)  # fmt: skip

    def run_all(self, name: str, patience: float = LOADING) -> None:
        "Run a notebook from the menu, then ask for the report in a new cell at its end."
        self.open(name, kernel=True)
        ready = "() => jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
        self.page.wait_for_function(ready)
        self.menu("Edit", "Clear Outputs of All Cells")
        self.menu("Run", "Run All Cells")
        self.idle(patience)
        wanted = expected(name, self.tree)
        cells = look_through(self.page, wanted)
        self.wrong += judged(f"{name}, run", cells, wanted)
        ran = [cell for cell in cells.values() if re.search(r"\[\d+\]", cell["prompt"])]
        bars = sum(cell["bars"] for cell in cells.values())
        self.counts += Counter({"cells run": len(ran), "progress bars": bars})
        if len(ran) != sum(cell["code"] for cell in cells.values()):
            self.wrong.append(f"{name}, run: only {len(ran)} cells ran")
        if not bars:
            self.wrong.append(f"{name}, run: no progress bar")
        self.report(name, len(wanted))
        self.close()

    def report(self, name: str, key: int) -> None:
        "A reader asks for the verdict; it must come as a table of HTML."
        self.page.evaluate(LAST)
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        self.page.keyboard.type("dmsil.information_report(*run.features())")
        self.page.keyboard.press("Shift+Enter")
        self.idle(LOADING)
        self.page.wait_for_timeout(500)
        cell = self.page.evaluate(SEE, [key]).get(str(key), {"tables": 0, "text": "", "errors": 0, "warnings": 0})
        if not cell["tables"] or "shared (nats)" not in cell["text"] or cell["errors"] or cell["warnings"]:
            self.wrong.append(f"{name}, report: no table of HTML but {cell['text'][:200]!r}")
        self.counts["report tables"] += cell["tables"]


NAMES = {"formulas": "math", "figures": "figures", "tables of HTML": "tables"}


def try_lab(pages: list[str], run: str | None = QUICKSTART, pictures: Path | None = None) -> tuple[Counter, list[str]]:
    "Read pages and run one; counts, and what was wrong."
    with copy_of_tree() as folder, jupyterlab(folder) as address, browser() as opened:
        lab = Lab(opened, address, folder / "tree", pictures)
        for name in pages:
            lab.read(name)
        if run:
            lab.run_all(run)
        return lab.counts, lab.wrong


# ---------------------------------------------------------------- the documentation site

WIDE = """() => {
  const boxed = e => /auto|scroll|hidden/.test(getComputedStyle(e).overflowX);
  const inside = e => { for (let p = e.parentElement; p; p = p.parentElement) if (boxed(p)) return true; };
  const main = [...document.querySelectorAll('article *')];
  return {
    wide: document.documentElement.scrollWidth > innerWidth + 1,
    over: main.filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inside(e)).length,
    math: document.querySelectorAll('.math').length, made: document.querySelectorAll('mjx-container').length,
    wrong: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
    pictures: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length, all: document.images.length,
  };
}"""


def try_site(folder: Path = SITE) -> tuple[Counter, list[str]]:
    "Every built page without a network, at both widths; counts, and what was wrong."
    counts, wrong = Counter(), []
    with browser() as opened:
        page = opened.new_context(offline=True).new_page()
        page.set_default_timeout(1000 * LOADING)
        for path in sorted(folder.rglob("*.html")):
            page.set_viewport_size({"width": WIDTHS[0], "height": 900})
            page.goto(path.as_uri())
            page.evaluate("() => window.MathJax?.startup?.promise")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                found, name = page.evaluate(WIDE), f"{path.relative_to(folder)} at {width}"
                if found["wide"] or found["over"]:
                    wrong.append(f"{name}: wider than the window")
                if found["wrong"] or found["made"] < found["math"]:
                    wrong.append(f"{name}: {found['made']} of {found['math']} formulas")
                if found["pictures"] < found["all"]:
                    wrong.append(f"{name}: {found['pictures']} of {found['all']} pictures shown")
            counts += Counter(
                {"pages of the site": 1, "its formulas": found["made"], "its pictures": found["pictures"]}
            )
    return counts, wrong


def summary(counts: Counter) -> str:
    "Counts in a line."
    return ", ".join(f"{what}: {n}" for what, n in counts.items())


def main(words: list[str]) -> int:
    "Everything; 1 where something was wrong."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pages", nargs="*", metavar="NOTEBOOK", help="some notebooks alone, such as nbs/40_benchmark.ipynb"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep a picture of each notebook")
    asked = parser.parse_args(words)
    if unknown := set(asked.pages) - set(claims.pages()):
        parser.error(f"{', '.join(sorted(unknown))}: no such notebook")
    if lacks := missing():
        sys.exit(lacks)
    start, pages = time.monotonic(), asked.pages
    counts, wrong = try_lab(
        pages or claims.pages(), None if pages and QUICKSTART not in pages else QUICKSTART, asked.pictures
    )
    if not pages and (SITE / "index.html").is_file():
        more, also = try_site()
        counts, wrong = counts + more, wrong + also
    elif not pages:
        print("the documentation site is not built (make docs): not looked at")
    for line in wrong:
        print(line)
    print(f"{summary(counts)}, errors: {len(wrong)}; {time.monotonic() - start:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
