"""Number the pages anew, 00, 01, 02 … in the order in which their names sort, and every mention of them: python tools/renumber.py

A page that comes in between shares the number of the page before it, or after it, until this has run.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".ipynb", ".py", ".md", ".toml", ".ini", ".css", ".yml", ".cff", ""}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def renumber() -> dict[str, str]:
    "Old and new names of the pages whose number changes; a mention is known by the name behind its number."
    pages = sorted(path.stem for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
    new = {page[3:]: f"{place:02}_{page[3:]}" for place, page in enumerate(pages)}
    mention = re.compile(r"(?<![\w/])((?:\.\./|nbs/)*)\d\d_(" + "|".join(new) + r")(?![\w(])")
    label = re.compile(r"\[\d\d\]\(((?:\.\./|nbs/)*(\d\d)_\w+\.ipynb)\)")  # [18](nbs/18_training.ipynb)
    for name in git("ls-files").splitlines():
        path = ROOT / name
        if path.suffix not in TEXT or name in ("CHANGELOG.md", "tools/renumber.py") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        changed = label.sub(r"[\2](\1)", mention.sub(lambda m: m[1] + new[m[2]], text))
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    moved = {page: new[page[3:]] for page in pages if page != new[page[3:]]}
    for old, name in sorted(moved.items(), reverse=True):  # from the last, so that no name is taken
        git("mv", f"nbs/{old}.ipynb", f"nbs/{name}.ipynb")
    return moved


if __name__ == "__main__":
    for old, name in renumber().items():
        print(old, "→", name)
