"The house: order of imports, documented names, generated files equal to their notebooks."

import ast
import builtins
import dis
import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = {path.stem[3:]: place for place, path in enumerate(sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")))}
MODULES = sorted(p.stem for p in (ROOT / "dmsil").glob("*.py") if not p.stem.startswith("_"))
RANK = {name: ORDER.get(name, ORDER.get("training", 99) + 0.5) for name in MODULES}
WING = sorted(f"related.{p.stem}" for p in (ROOT / "dmsil" / "related").glob("*.py") if not p.stem.startswith("_"))
IN_WING = {
    f"related.{path.stem[3:]}": place
    for place, path in enumerate(sorted((ROOT / "nbs" / "related").glob("[0-9][0-9]_*.ipynb")))
}


def tree(name):
    return ast.parse((ROOT / "dmsil" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))


def home(name, node):
    "The module that an import from inside the package names, as it stands after `dmsil.`; None for others."
    if node.level:
        parts = name.split(".")[: -node.level]
        return ".".join([*parts, node.module or ""]) if node.level <= name.count(".") + 1 else None
    return node.module.removeprefix("dmsil.") if node.module.startswith("dmsil.") else None


def imported(name, top_only=False):
    nodes = tree(name).body if top_only else ast.walk(tree(name))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"dmsil.{home(name, node)}" if node.level else node.module


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_upwards(name):
    for module in imported(name):
        if module.startswith("dmsil."):
            above = module.split(".")[1]
            assert above != "related", f"{name} imports the wing"
            assert RANK[above] < RANK[name], f"{name} imports {above}"
            assert above != "proofs", f"{name} imports proofs, a leaf"


@pytest.mark.parametrize("name", WING)
def test_the_wing_is_a_leaf(name):
    "Its modules import from the main line, and of the wing what stands above them."
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and (inside := home(name, node)):
            if inside.startswith("related."):
                assert IN_WING[inside] < IN_WING[name], f"{name} imports {inside}"
            else:
                assert inside in MODULES, f"{name} imports {inside}"


@pytest.mark.parametrize("name", MODULES + WING)
def test_library_needs_no_development_tool(name):
    roots = {module.split(".")[0] for module in imported(name)}
    assert not roots & {"fastcore", "nbdev", "execnb", "IPython", "pytest"}
    assert "sympy" not in roots or name == "proofs"
    heavy = {
        "matplotlib",
        "sklearn",
        "transformers",
        "scipy",
        "pooch",
        "tqdm",
        "h5py",
        "soundfile",
        "opensmile",
        "mediapipe",
    }
    assert not {m.split(".")[0] for m in imported(name, top_only=True)} & heavy, "imported before it is used"


@pytest.mark.parametrize("name", MODULES + WING)
def test_a_module_has_every_name_that_it_uses(name):
    "A page may import for its own cells what an exported function needs; the module then lacks it."
    module, codes = importlib.import_module(f"dmsil.{name}"), [compile(tree(name), name, "exec")]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        used = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        lacking = {word for word in used if not hasattr(module, word) and not hasattr(builtins, word)}
        assert not lacking, f"{name}, {code.co_name}: {lacking}"


@pytest.mark.parametrize("name", MODULES + WING)
def test_public_names_are_documented(name):
    module = importlib.import_module(f"dmsil.{name}")
    assert module.__doc__ or name == "cli", "the notebook's subtitle is missing"
    for public in module.__all__:
        thing = getattr(module, public)
        if callable(thing):
            assert thing.__doc__ and not thing.__doc__.startswith(f"{public}("), f"{name}.{public} has no docstring"


PAGES = sorted((ROOT / "nbs").rglob("*.ipynb"))
LINES, CELLS, NAMES = 450, 120, 111
WING_CELLS, WING_NAMES = 60, 52
PROOFS = 620  # cells of 01_proofs, which has a section for each claim


def count(of, number, most):
    print(f"{of}: {number}, at most {most}")
    return number <= most


def test_a_module_is_a_room():
    paths = {name: ROOT / "dmsil" / f"{name.replace('.', '/')}.py" for name in MODULES + WING}
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in paths.items()}
    print(f"{len(lines)} modules, {sum(lines.values())} lines")
    assert all([count(f"lines of {name}", number, LINES) for name, number in lines.items()])


def test_a_page_can_be_read_in_one_sitting():
    cells = {path: len(json.loads(path.read_text(encoding="utf-8"))["cells"]) for path in PAGES}
    most = {path: WING_CELLS if path.parent.name == "related" else CELLS for path in cells}
    most = {path: PROOFS if path.stem == "01_proofs" else number for path, number in most.items()}
    assert all([count(f"cells of {path.stem}", number, most[path]) for path, number in cells.items()])


def test_public_names_are_few():
    import dmsil

    own = {(name, public) for name in MODULES for public in importlib.import_module(f"dmsil.{name}").__all__}
    package = set(dmsil.__all__) - {public for _, public in own}
    wing = [public for name in WING for public in importlib.import_module(f"dmsil.{name}").__all__]
    assert count("public names", len(own) + len(package), NAMES) and count("of the wing", len(wing), WING_NAMES)


def test_no_private_name_crosses_a_module():
    nodes = [(name, node) for name in MODULES + WING for node in ast.walk(tree(name))]
    own = [
        (name, node)
        for name, node in nodes
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("dmsil"))
    ]
    private = [f"{name}: {alias.name}" for name, node in own for alias in node.names if alias.name.startswith("_")]
    assert count("private names imported from another module", len(private), 0), private


def test_package_names_exist():
    import dmsil

    for name in dmsil.__all__:
        assert getattr(dmsil, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = dmsil.no_such_name


def test_import_is_light():
    code = "import sys, dmsil; print([m for m in ('dmsil.related', 'torch', 'sympy', 'sklearn', 'transformers', 'matplotlib', 'fastcore', 'nbdev') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    code = code.replace("import sys, dmsil", "import sys, dmsil.training")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not re.search("sklearn|transformers|matplotlib|fastcore|nbdev|related", loaded)


def test_modules_are_the_notebooks(tmp_path):
    "Export into a copy gives the committed modules."
    import shutil

    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    for path in (tmp_path / "dmsil").rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            path.unlink()
    tool = Path(sys.executable).parent / "nbdev_export"
    subprocess.run([tool], cwd=tmp_path, check=True, capture_output=True, env=os.environ)
    for path in (ROOT / "dmsil").rglob("*.py"):
        assert (tmp_path / path.relative_to(ROOT)).read_text() == path.read_text(), path.name


def test_readme_is_the_index():
    import readme

    text, pictures = readme.made()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text and text.count("\n") <= 110
    assert pictures and {path: (ROOT / path).read_bytes() for path in pictures} == pictures
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "index_files").iterdir()} == set(pictures)
    assert all(path in text for path in pictures)


@pytest.mark.parametrize("words", [("check",), ("format", "--check")], ids=["check", "format"])
def test_ruff_has_nothing_to_say(words):
    ruff = Path(sys.executable).parent / "ruff"
    done = subprocess.run([ruff, *words, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_page_has_the_benchmarks_numbers():
    sets = json.loads((ROOT / "results" / "benchmark.json").read_text(encoding="utf-8"))["sets"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind in ("mosi", "short"):
        ratios = sets[kind]["tuned"]["ratios"]
        assert f"{ratios['epoch_cpu']:.1f}× faster" in text and f"{ratios['memory']:.2f}" in text, kind


def test_settings_and_constraints_agree():
    from configparser import ConfigParser

    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    meta = config["DEFAULT"]
    for words in (
        meta["requirements"],
        meta["text_requirements"],
        meta["vision_requirements"],
        meta["dev_requirements"],
    ):
        for word in words.split():
            name = re.match(r"[\w-]+", word).group().lower()
            assert name in {k.lower() for k in pinned}, f"{name} is not in constraints.txt"
            if "==" in word:
                assert pinned[name] == word.split("==")[1]
