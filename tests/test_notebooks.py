"Every notebook runs from top to bottom; a failure shows the cell and its traceback."
import re

import execute as tool
import nbformat
import pytest

NOTEBOOKS = [tool.ROOT / page for page in tool.pages()]
every_page = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(tool.ROOT).as_posix())


@every_page
def test_notebook_runs(path):
    if wrong := tool.run(nbformat.read(path, 4), path.parent):
        pytest.fail(wrong, pytrace=False)


def test_a_broken_assert_is_seen():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3, 'sum'")])
    wrong = re.sub(r"\x1b\[[0-9;]*m", "", tool.run(notebook, tool.ROOT))
    assert "AssertionError: sum" in wrong and "assert 1 + 1 == 3" in wrong


@every_page
def test_stored_page_is_clean(path):
    "Executed, without errors, warnings, machine paths or outsized outputs."
    notebook, text = nbformat.read(path, 4), 0
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not tool.skipped(cell, tool.flags())]
    assert any(cell.outputs for cell in code), "no stored output: run `make notebooks`"
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert not (output.output_type == "stream" and output.name == "stderr"), f"stderr stored: {output.text[:200]}"
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
