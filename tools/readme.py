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


def readme() -> str:
    "The text of README.md."
    notebook = nbformat.read(ROOT / "index.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if visible(cell)]
    for cell in notebook.cells:
        cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE)
    text, _ = MarkdownExporter(config=Config({"NbConvertBase": {"display_data_priority": ["text/markdown", "text/plain"]}})).from_notebook_node(notebook)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
