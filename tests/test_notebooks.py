"Every notebook runs from top to bottom; a failure shows the cell and its traceback."

import re
import subprocess
import sys
from pathlib import Path

import execute as tool
import nbformat
import pytest
from nbdev.doclinks import nbglob

NOTEBOOKS = [tool.ROOT / page for page in tool.pages()]
every_page = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(tool.ROOT).as_posix())


@every_page
def test_notebook_runs(path):
    if wrong := tool.test(path, tool.flags()):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if '"#| slow' in path.read_text(encoding="utf-8")], ids=lambda p: p.name
)
def test_slow_cells_run(path):
    if wrong := tool.test(path, ["cuda"]):
        pytest.fail(wrong, pytrace=False)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def page(path, source):
    "A notebook of one cell, in a file."
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    return path


GOOD, BAD = "assert 1 + 1 == 2, 'sum'", "assert 1 + 1 == 3, 'sum'"


def test_a_broken_assert_is_seen(tmp_path):
    "In a process and in a kernel."
    notebook = nbformat.read(page(tmp_path / "bad.ipynb", BAD), 4)
    for wrong in (tool.test(tmp_path / "bad.ipynb", []), tool.run(notebook, tmp_path, [])):
        assert "AssertionError: sum" in plain(wrong) and "assert 1 + 1 == 3" in plain(wrong)
    assert tool.test(page(tmp_path / "good.ipynb", GOOD), []) is None


def test_the_end_of_a_process_is_a_failure(tmp_path):
    assert "exit code 7" in tool.test(page(tmp_path / "ends.ipynb", "import os; os._exit(7)"), [])
    assert tool.test(page(tmp_path / "sleeps.ipynb", "import time; time.sleep(60)"), [], seconds=0.1)


def test_the_command_nbdev_test(tmp_path):
    "Passes a project's good page and fails on a broken assert; here it runs the very pages of this file."
    (tmp_path / "settings.ini").write_text((tool.ROOT / "settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    command = [Path(sys.executable).parent / "nbdev_test", "--n_workers", "0"]
    page(tmp_path / "good.ipynb", GOOD)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    page(tmp_path / "bad.ipynb", BAD)
    end = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert end.returncode != 0 and "AssertionError: sum" in plain(end.stderr)
    assert sorted(map(Path, nbglob(tool.ROOT, as_path=True))) == sorted(NOTEBOOKS)


@every_page
def test_stored_page_is_clean(path):
    "Executed, without errors, warnings, machine paths or outsized outputs."
    notebook, text = nbformat.read(path, 4), 0
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not tool.skipped(cell, tool.flags())]
    assert any(cell.outputs for cell in code), "no stored output: run `make notebooks`"
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert not (output.output_type == "stream" and output.name == "stderr"), (
                f"stderr stored: {output.text[:200]}"
            )
            data = output.get("data", {})
            assert len(data.get("image/png", "")) * 3 / 4 <= 40 * 1024, f"figure above 40 KB:\n{cell.source}"
            shown = "".join(str(v) for k, v in data.items() if not k.startswith("image/")) + output.get("text", "")
            assert "/home/" not in shown and "/root/" not in shown and "/work/" not in shown, cell.source
            text += len(shown)
    assert text <= 60 * 1024


@every_page
def test_links_lead_somewhere(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", cell.source):
                if not target.startswith(("http", "mailto")):
                    assert (path.parent / target).exists(), f"{target} in: {cell.source[:80]}"
