"The notebooks in the real JupyterLab and a real browser, as a reader sees them; and the same eyes on notebooks with faults."

import subprocess

import browser
import claims
import nbformat
import pytest
from nbformat import v4

needs_a_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")


@pytest.mark.parametrize("text, number", [("$a$ and $b$", 2), ("$$a\n+b$$", 1), ("`$a$` costs \\$3", 0), ("$x$, $$y$$\n```\n$z$\n```", 2),
                                          ("\\begin{align}a\\end{align}", 1)])  # fmt: skip
def test_formulas_are_counted(text, number):
    assert browser.formulas(text) == number


@needs_a_browser
@pytest.mark.slow
def test_every_notebook_in_jupyterlab(capsys):
    counts, wrong = browser.try_lab(claims.pages())
    with capsys.disabled():
        print("", browser.summary(counts))
    assert not wrong, "\n".join(wrong)
    wanted = [cell for page in claims.pages() for cell in browser.expected(page)]
    assert counts["notebooks opened"] == len(claims.pages()) and counts["cells"] == len(wanted)
    assert counts["formulas"] >= sum(cell["math"] for cell in wanted) > 0
    assert counts["figures"] >= sum(cell["figures"] for cell in wanted) > 0
    assert counts["cells run"] > 0 and counts["progress bars"] > 0 and counts["report tables"] > 0


@needs_a_browser
def test_faults_are_seen(tmp_path, monkeypatch):
    "Bad mathematics, a warning, an error and a picture that is none."
    picture = v4.new_output("display_data", {"image/png": "bm90IGEgcGljdHVyZQ=="})
    error = v4.new_output("error", ename="E", evalue="e", traceback=["E: e"])
    faults = [v4.new_output("stream", name="stderr", text="a warning"), error, picture]
    cells = [
        v4.new_markdown_cell("fine: $a$"),
        v4.new_markdown_cell(r"bad: $\left(a$"),
        v4.new_markdown_cell("left: $$a"),
    ]
    notebook = v4.new_notebook(cells=cells + [v4.new_code_cell("1", outputs=[output]) for output in faults])
    nbformat.write(notebook, tmp_path / "faults.ipynb")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(browser, "ROOT", tmp_path)
    monkeypatch.setattr(browser, "PATIENCE", 8)
    counts, wrong = browser.try_lab(["faults.ipynb"], run=None)
    assert counts["cells"] == 6
    seen = list(dict.fromkeys(line.split(":")[0] for line in wrong))
    assert seen == [f"faults.ipynb, cell {key}" for key in (1, 2, 3, 4, 5)]


@needs_a_browser
@pytest.mark.skipif(
    not (browser.SITE / "index.html").is_file(), reason="the documentation site is not built (make docs)"
)
def test_every_page_of_the_site(capsys):
    counts, wrong = browser.try_site()
    with capsys.disabled():
        print("", browser.summary(counts))
    assert not wrong, "\n".join(wrong)
    assert counts["pages of the site"] > len(claims.pages())
