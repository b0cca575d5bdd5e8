"The claims of the notebooks: where each is stated, where it is proven, and on what evidence. python tools/claims.py writes the table into the page of proofs."

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROOFS = "nbs/01_proofs.ipynb"
KINDS = (
    "SymPy, any n and d",
    "SymPy, any n and d, rest by hand",
    "SymPy, at the sizes named",
    "by hand, checked numerically",
    "measured",
)
STATEMENT = re.compile(r"^> \*\*P(\d+) · (.+?)\.\*\*", re.MULTILINE)
SECTION = re.compile(r"## P(\d+) · (.+)")
EVIDENCE = re.compile(r"\*Evidence: (.+?)\*")


def cells(path: str) -> list[tuple[str, str]]:
    "The cells of a notebook as (kind, source)."
    notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def pages() -> list[str]:
    "Every notebook, relative to the root."
    found = [ROOT / "index.ipynb", *sorted((ROOT / "nbs").rglob("*.ipynb"))]
    return [
        path.relative_to(ROOT).as_posix() for path in found if path.exists() and ".ipynb_checkpoints" not in path.parts
    ]


def statements() -> list[dict]:
    "Every cell that states a proposition."
    found = [
        (page, STATEMENT.search(text), EVIDENCE.search(text))
        for page in pages()
        for kind, text in cells(page)
        if kind == "markdown"
    ]
    return [
        {"number": int(match[1]), "title": match[2], "notebook": page, "evidence": evidence and evidence[1]}
        for page, match, evidence in found
        if match
    ]


def sections(page: str = PROOFS) -> dict[int | None, dict]:
    "The proof sections of a page; what stands outside them (imports, the helper, the letters) has the key None."
    parts = {None: {"title": None, "cells": []}}
    number = None
    for kind, text in cells(page):
        if kind == "markdown" and re.match(r"##? ", text):
            match = SECTION.match(text)
            number = int(match[1]) if match else None
            if match and number in parts:
                raise ValueError(f"{page} proves P{number} twice")
            if match:
                parts[number] = {"title": match[2].strip(), "cells": []}
            text = text.partition("\n")[2]
        if text:
            parts[number]["cells"].append((kind, text))
    for part in parts.values():
        first = next((text for kind, text in part["cells"] if kind == "markdown"), "")
        match = EVIDENCE.fullmatch(first.partition("\n")[0].strip())
        part["evidence"] = match[1] if match else None
    return parts


def assumed(section: dict) -> list[str]:
    "The rewriting rules that a section's code gives the helper, as written: left = right."
    trees = [ast.parse(text) for kind, text in section["cells"] if kind == "code"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    named = {
        n.targets[0].id: n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    rules = []
    for call in (node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Facts"):
        given = next((word.value for word in call.keywords if word.arg == "rules"), ast.Dict([], []))
        given = named.get(given.id, given) if isinstance(given, ast.Name) else given
        rules += [f"{ast.unparse(u)} = {ast.unparse(v)}" for u, v in zip(given.keys, given.values, strict=True)]
    return list(dict.fromkeys(rules))


def claims() -> list[dict]:
    "One row for each proposition that is stated, in the order of its number."
    proofs = sections()
    rows = []
    for stated in sorted(statements(), key=lambda row: row["number"]):
        proof = proofs.get(stated["number"], {"evidence": stated["evidence"]})
        rows.append({
            "number": stated["number"], "title": stated["title"], "evidence": proof["evidence"],
            "statement_notebook": stated["notebook"], "proof_notebook": PROOFS if stated["number"] in proofs else None,
        })  # fmt: skip
    return rows


def table(base: str = "") -> str:
    "The claims as a Markdown table; links are relative to the root, or to a folder in it."
    link = lambda page: f"[{Path(page).stem}]({page.removeprefix(base)})" if page else "–"
    lines = ["| | claim | evidence | stated in | proof |", "|---|---|---|---|---|"]
    for row in claims():
        where = f"{link(row['statement_notebook'])} | {link(row['proof_notebook'])}"
        lines.append(f"| P{row['number']} | {row['title']} | {row['evidence'] or '–'} | {where} |")
    return "\n".join(lines)


def listed() -> str:
    "The section of the page of proofs that lists the claims."
    return (
        "## The claims\n\nEvery claim is stated once, in the page of the code that it is about, and proven below; "
        f"P21 is measured where it is stated.\n\n{table('nbs/')}"
    )


def write() -> None:
    "That section, as it should be."
    notebook = json.loads((ROOT / PROOFS).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "".join(cell["source"]).startswith("## The claims\n"):
            cell["source"] = listed().splitlines(keepends=True)
    (ROOT / PROOFS).write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
