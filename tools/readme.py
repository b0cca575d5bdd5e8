"README.md from index.ipynb, with nbdev's own processors: python tools/readme.py"

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]


def visible(cell) -> bool:
    "Neither hidden nor exported."
    return not re.search(r"^#\|\s*(hide|export|default_exp)", cell.source, re.MULTILINE)


def shown(cell):
    "A cell without its directives; of one that does not echo, what it made."
    if not re.search(r"^#\|\s*echo: false", cell.source, re.MULTILINE):
        cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE)
        return cell
    return nbformat.v4.new_markdown_cell("\n\n".join(output.data["text/markdown"] for output in cell.outputs))


def made() -> tuple[str, dict[str, bytes]]:
    "The text of README.md, and its pictures by path."
    notebook = nbformat.read(ROOT / "index.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if visible(cell)]
    notebook.cells = [shown(cell) for cell in notebook.cells]
    priority = Config({"NbConvertBase": {"display_data_priority": ["text/markdown", "image/png", "text/plain"]}})
    text, found = MarkdownExporter(config=priority).from_notebook_node(notebook, {"output_files_dir": "index_files"})
    text = re.sub(r"\n *\n!\[png\]\((.+)\)\n *\n", r"\n![](\1)\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return text.replace("```\n\n```\n", ""), found["outputs"]


def write() -> None:
    "README.md and its pictures, and no picture that it no longer shows."
    text, pictures = made()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    (ROOT / "index_files").mkdir(exist_ok=True)
    for old in (ROOT / "index_files").iterdir():
        old.unlink()
    for path, content in pictures.items():
        (ROOT / path).write_bytes(content)


if __name__ == "__main__":
    write()
