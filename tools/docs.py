"""The documentation site from the notebooks, with Sphinx and MyST-NB, and a check of every link in it.

    python tools/docs.py

It runs no cell (the stored outputs are shown), needs no network, and leaves _docs/html. A warning is an error.
"""

import html.parser
import importlib.resources
import re
import shutil
import sys
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import apidoc
import claims
import nbformat

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_docs"  # nbdev passes over names that begin with _
SOURCE, HTML = BUILD / "source", BUILD / "html"
MATHJAX = "tex-svg-full.js"  # one file: no fonts, nothing fetched later
DISPLAYED = re.compile(r"^(>? *)(.*?)\$\$(.+?)\$\$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
REMOTE_IMAGE = re.compile(r"!\[([^\]]*)\]\(https?://[^)\s]+\)")
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)\b", re.MULTILINE)
TAGS = {"cuda": "gpu", "slow": "slow", "eval: false": "unrun", "echo: false": "remove-input"}
CONF = {
    "project": "dmsil",
    "author": "the dmsil authors",
    "copyright": "2026 onwards, the dmsil authors",
    "extensions": ["myst_nb", "sphinx.ext.mathjax"],
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "myst",
    "nb_ipywidgets_js": {},
    "myst_enable_extensions": ["dollarmath", "amsmath", "colon_fence"],
    "myst_dmath_double_inline": True,
    "myst_heading_anchors": 4,
    "myst_heading_slug_func": "apidoc.slug",
    "mathjax_path": MATHJAX,
    "mathjax3_config": {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}},
    "html_theme": "furo",
    "html_title": "dmsil",
    "html_static_path": ["static"],
    "html_css_files": ["docs.css"],
    "html_js_files": ["docs.js"],
    "html_copy_source": False,
    "html_show_sphinx": False,
    "python_maximum_signature_line_length": 72,
    "toc_object_entries_show_parents": "hide",
    "add_module_names": False,
    "show_warning_types": True,
    "smartquotes": False,
}


# ---------------------------------------------------------------- the sources


def title(page: str) -> str:
    "The first heading of a notebook."
    return (
        next(text for kind, text in claims.cells(page) if kind == "markdown" and text.startswith("# "))
        .splitlines()[0][2:]
        .strip()
    )


def order() -> tuple[list[str], list[str]]:
    "Numbered pages, then tutorials in the order of the front page's list or table; what it lacks comes last."
    lines = [
        line for _, text in claims.cells("index.ipynb") for line in text.splitlines() if line.startswith(("|", "-"))
    ]
    listed = [target for line in lines for _, target in LINK.findall(line)]
    rest = [page for page in claims.pages() if page != "index.ipynb"]
    ranked = sorted(rest, key=lambda page: (listed.index(page) if page in listed else len(listed), page))
    return [page for page in rest if page.count("/") == 1], [page for page in ranked if page.count("/") > 1]


def toctree(caption: str, entries: list[str]) -> str:
    "A part of the list of pages at the side."
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"])


def contents() -> str:
    "All pages, in reading order."
    pages, tutorials = order()
    numbered = [f"{Path(page).stem.partition('_')[0]} {title(page)} </{page}>" for page in pages]
    modules = [f"dmsil.{module.name} </api/{module.name}>" for module in apidoc.modules()]
    parts = {
        "Pages": numbered,
        "Tutorials": [f"/{page}" for page in tutorials],
        "Reference": ["/claims", "/api/index", *modules],
    }
    return "\n\n".join(toctree(caption, entries) for caption, entries in parts.items())


def subtitle(page: str) -> str:
    "The line below the first heading of a notebook."
    text = next(text for kind, text in claims.cells(page) if kind == "markdown" and text.startswith("# "))
    return next((line[1:].strip() for line in text.splitlines() if line.startswith(">")), "")


def doors() -> dict[str, tuple[list[str], list[str]]]:
    "The front page's three doors: the pages that each names, and those behind it: what derives behind the last, all else behind the second."
    texts = [text for kind, text in claims.cells("index.ipynb") if kind == "markdown"]
    listed = re.findall(r"^\d\. \*\*(.+?)\*\*:(.*)$", next(t for t in texts if "Three doors" in t), re.MULTILINE)
    named = {door: list(dict.fromkeys(page for _, page in LINK.findall(text))) for door, text in listed}
    derive = next(line for text in texts for line in text.splitlines() if line.startswith("- **Derive**"))
    deriving = {page for _, page in LINK.findall(derive)}
    numbered, tutorials = order()
    rest = [page for page in [*tutorials, *numbered] if not any(page in pages for pages in named.values())]
    behind = [[], [page for page in rest if page not in deriving], [page for page in rest if page in deriving]]
    return {door: (pages, more) for (door, pages), more in zip(named.items(), behind, strict=True)}


def door_map() -> str:
    "The doors side by side, each with its pages in the order of reading."
    lines = ["## All pages, by door", "", "::::{container} doors", ""]
    for door, (pages, behind) in doors().items():
        lines += [":::{container} door", "", f"**{door}**", ""]
        lines += [f"1. [{title(page)}](/{page}): {subtitle(page)}" for page in pages]
        lines += ["", " · ".join(f"[{title(page)}](/{page})" for page in behind), "", ":::", ""]
    return "\n".join([*lines, "::::"])


def directives(text: str) -> set[str]:
    "The directives of a cell."
    return {match.strip() for match in re.findall(r"^#\|\s*(.+)$", text, re.MULTILINE)}


def in_one_line(formula: re.Match) -> str:
    "A displayed formula in one line, so that none of its lines can be taken for a list or a heading."
    inside = re.sub(r"\n>? *" if formula[1].startswith(">") else r"\n *", " ", formula[3])
    return f"{formula[1]}{formula[2]}$${inside.strip()}$$"


def carried(text: str, page: str) -> str:
    "A markdown cell as the site needs it; files that it links to are carried along, pictures on other machines become their names."
    text = DISPLAYED.sub(in_one_line, REMOTE_IMAGE.sub(r"\1", text))
    text = claims.STATEMENT.sub(lambda stated: f"(claim-p{stated[1]})=\n{stated[0]}", text)
    for _, target in LINK.findall(text):
        path = (ROOT / page).parent / target.partition("#")[0]
        if not urllib.parse.urlparse(target).scheme and path.is_file() and path.suffix not in (".ipynb", ".md"):
            copy = SOURCE / path.resolve().relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return text


def write_page(page: str) -> None:
    "A notebook as the site shows it: hidden cells and directives left out."
    notebook = nbformat.read(ROOT / page, 4)
    exports = next(
        (name[1] for cell in notebook.cells if (name := re.search(r"^#\|\s*default_exp ([\w.]+)", cell.source))), None
    )
    notebook.cells = [cell for cell in notebook.cells if not (cell.cell_type == "code" and HIDDEN.search(cell.source))]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = carried(cell.source, page)
        else:
            cell.metadata["tags"] = [TAGS[name] for name in directives(cell.source) if name in TAGS]
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
    if exports:
        notebook.cells.insert(
            1, nbformat.v4.new_markdown_cell(f"Exports the module [dmsil.{exports}](/api/{exports}.md).")
        )
    if page == "index.ipynb":
        at = next(k for k, cell in enumerate(notebook.cells) if cell.source.startswith("## All pages"))
        notebook.cells[at : at + 2] = [nbformat.v4.new_markdown_cell(door_map())]
        notebook.cells.append(nbformat.v4.new_markdown_cell(contents()))
    (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, SOURCE / page)


def claims_page() -> str:
    "Every claim with its statement and its proof."
    lines = ["# Claims", "", "Every proposition is stated and proven once, with a wrong variant that is shown to fail; *measured* means "
             "that the evidence is a measurement, where the claim is stated.", "",
             "| | claim | evidence | stated in | proof |", "|---|---|---|---|---|"]  # fmt: skip
    for row in claims.claims():
        section = apidoc.slug(f"P{row['number']} · {row['title']}")
        stated = f"[{title(row['statement_notebook'])}](#claim-p{row['number']})"
        proof = (
            f"[proof](/{row['proof_notebook']}#{section})"
            if row["proof_notebook"]
            else f"[measured](#claim-p{row['number']})"
        )
        lines.append(f"| P{row['number']} | {row['title']} | {row['evidence'] or '–'} | {stated} | {proof} |")
    return "\n".join(lines) + "\n"


def api_index() -> str:
    "Every module, and the names that the package itself gives."
    given = [(f"{{py:obj}}`dmsil.{name} <dmsil.{module}.{name}>`", module) for name, module in apidoc.package_names()]
    modules = [(module.name, apidoc.prose(module.doc), len(module.public)) for module in apidoc.modules()]
    lines = [
        "# API",
        "",
        "What `import dmsil` gives, and the module where each name lives:",
        "",
        "| name | module |",
        "|---|---|",
    ]
    lines += [f"| {name} | [dmsil.{module}]({module}.md) |" for name, module in given]
    lines += ["", "Every module, in the order of reading:", "", "| module | | names |", "|---|---|---|"]
    lines += [f"| [dmsil.{name}]({name}.md) | {doc} | {number} |" for name, doc, number in modules]
    return "\n".join(lines) + "\n"


def write_sources() -> None:
    "Everything that Sphinx reads."
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "static").mkdir(parents=True)
    (SOURCE / "api").mkdir()
    for page in claims.pages():
        write_page(page)
    (SOURCE / "claims.md").write_text(claims_page(), encoding="utf-8")
    (SOURCE / "api" / "index.md").write_text(api_index(), encoding="utf-8")
    for module in apidoc.modules():
        (SOURCE / "api" / f"{module.name}.md").write_text(apidoc.page(module, title(module.notebook)), encoding="utf-8")
    for name in ("docs.css", "docs.js"):
        shutil.copy(ROOT / "tools" / name, SOURCE / "static")
    script = importlib.resources.files("mathjax") / "static" / "mathjax" / "es5" / MATHJAX
    (SOURCE / "static" / MATHJAX).write_bytes(script.read_bytes())


# ---------------------------------------------------------------- the links


@dataclass
class Seen(html.parser.HTMLParser):
    "What a built page links to, loads and defines."

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    formulas: int = 0
    figures: int = 0
    text: list[str] = field(default_factory=list)
    code: int = 0  # depth of elements whose dollars mean nothing

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        kinds = (given.get("class") or "").split()
        self.formulas += "math" in kinds and tag in ("span", "div")
        self.figures += tag == "img"
        self.code += tag in ("pre", "code", "script", "style")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        self.loads += [given[key] for key in ("src", "href") if tag != "a" and given.get(key)]

    def handle_endtag(self, tag):
        self.code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        if not self.code:
            self.text.append(data)


def read(path: Path) -> Seen:
    seen = Seen()
    seen.feed(path.read_text(encoding="utf-8"))
    return seen


def wrong_with(page: Path, seen: dict[Path, Seen]) -> list[str]:
    "Links that lead nowhere, files from other machines, and mathematics that stayed source."
    wrong = []
    for address in [*seen[page].links, *seen[page].loads]:
        parts = urllib.parse.urlparse(address)
        if parts.scheme in ("data", "mailto"):
            continue
        if parts.scheme or parts.netloc:
            if address in seen[page].loads:
                wrong.append(f"loads {address}")
            continue
        target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
        if target.is_dir():
            target /= "index.html"
        fragment = urllib.parse.unquote(parts.fragment)
        if not target.is_file():
            wrong.append(f"no file for {address}")
        elif fragment and target in seen and fragment not in seen[target].names:
            wrong.append(f"no place in the page for {address}")
    return wrong + [f"mathematics left as source: {part.strip()[:60]}" for part in seen[page].text if "$$" in part]


def check(folder: Path = HTML) -> tuple[dict[str, int], list[str]]:
    "Counts over a built site, and all that is wrong with it."
    seen = {path.resolve(): read(path) for path in sorted(folder.rglob("*.html"))}
    wrong = [f"{page.relative_to(folder.resolve())}: {what}" for page in seen for what in wrong_with(page, seen)]
    links = [address for page in seen.values() for address in page.links]
    outside = [address for address in links if urllib.parse.urlparse(address).scheme]
    return {
        "pages": len(seen), "links inside": len(links) - len(outside), "links outside (not followed)": len(outside),
        "formulas": sum(page.formulas for page in seen.values()), "pictures": sum(page.figures for page in seen.values()),
        "wrong": len(wrong),
    }, wrong  # fmt: skip


def build() -> int:
    "Write the sources, run Sphinx; how many warnings."
    from sphinx.application import Sphinx

    write_sources()
    shutil.rmtree(HTML, ignore_errors=True)
    app = Sphinx(
        SOURCE,
        None,
        HTML,
        BUILD / "doctrees",
        "html",
        confoverrides=CONF,
        freshenv=True,
        warningiserror=True,
        status=None,
    )
    app.build()
    return app._warncount


# ---------------------------------------------------------------- both


if __name__ == "__main__":
    warnings = build()
    counts, wrong = check()
    for line in wrong:
        print(line)
    print(", ".join(f"{name}: {count}" for name, count in {**counts, "warnings": warnings}.items()))
    sys.exit(bool(wrong or warnings))
