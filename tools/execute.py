"Run notebooks from top to bottom and store what they show: python tools/execute.py nbs/00_covariance.ipynb …"

import multiprocessing
import os
import re
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import nbformat
from claims import pages
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
NEVER_STORED = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")


def flags() -> list[str]:
    "The flags of settings.ini whose cells are not run (slow, cuda)."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]["tst_flags"].split()


def skipped(cell, names: list[str]) -> bool:
    "Does one of the cell's directives take it out of an ordinary run?"
    directives = re.findall(r"^#\|[ \t]*(\S+)[ \t]*(\S*)", cell.source, re.MULTILINE)
    return any(name in names or (name == "eval:" and value == "false") for name, value in directives)


def storable(output) -> bool:
    "Progress bars live only while they run."
    if output.output_type == "stream" and output.name == "stderr":
        return "it/s" not in output.text and "%|" not in output.text
    return not any(kind in output.get("data", {}) for kind in NEVER_STORED)


def run(notebook, folder: Path, names: list[str]) -> str | None:
    "Run a notebook in a folder, without the cells behind these flags; what went wrong, or None."
    for cell in notebook.cells:
        if cell.cell_type == "code" and skipped(cell, names):
            cell.metadata["tags"] = ["skip-execution"]
    try:
        NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    except CellExecutionError as error:
        return str(error)
    return None


def _tested(path: Path, names: list[str], log: str) -> None:
    from nbdev.test import test_nb

    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    passed, _ = test_nb(path, skip_flags=names, basepath=ROOT)
    sys.exit(not passed)


def test(path: Path, names: list[str], seconds: float = 1800) -> str | None:
    "The same as the command nbdev_test does it, in a process of its own."
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "sympy", "matplotlib.pyplot", "scipy.stats", "nbclient", "nbdev.test"])
    with tempfile.NamedTemporaryFile() as log:
        process = processes.Process(target=_tested, args=(path, names, log.name))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
        elif process.exitcode == 0:
            return None
        return f"{path.name}: {Path(log.name).read_text(errors='replace') or f'exit code {process.exitcode}'}"


def execute(path: Path) -> None:
    "Execute one notebook in its own folder; cells that need a GPU keep the outputs they have."
    os.environ.pop("MPLBACKEND", None)  # figures are stored, whatever backend the shell prefers
    notebook = nbformat.read(path, 4)
    if wrong := run(notebook, path.parent, ["cuda"]):
        sys.exit(f"{path}: {wrong}")
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if storable(output)]
    notebook.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(p) for p in sys.argv[1:]] or [ROOT / page for page in pages()]:
        execute(path)
