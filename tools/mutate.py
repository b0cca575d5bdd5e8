"""Small damages, one at a time, and whether the tests notice: python tools/mutate.py covariance alignment P8 P14

A constant grows or shrinks by a tenth (a whole number by one), a sign turns, < becomes <=, a clamp goes; floors that keep a division from
nothing, by how much work is split, and pictures stay. For a module those of its tests run that reach the damaged function, the fastest
first; for a claim its section of 01_proofs. What was tried is kept in results/mutations.json and not tried again (unless --again says so),
and a table of what survived is printed; a reason that somebody wrote beside a survivor ("why") stays.
"""

import argparse
import ast
import copy
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import types
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import RESULTS, ROOT, stored

OUT = RESULTS / "mutations.json"
AGAIN = {"new": ("new",), "survivors": ("new", "survivors"), "all": ("new", "survivors", "noticed")}
TESTS = {
    "covariance": ["tests/test_covariance.py", "-k", "not compiled"],
    "alignment": ["tests/test_alignment.py"],
    "labels": ["tests/test_labels.py"],
    "objective": ["tests/test_objective.py"],
    "metrics": ["tests/test_metrics.py", "tests/test_classes.py"],
    "estimates": ["tests/test_estimates.py"],
    "bends": ["tests/test_estimates.py"],
    "pairs": ["tests/test_pairs.py"],
    "interactions": ["tests/test_interactions.py"],
    "posterior": ["tests/test_posterior_parts.py"],
    "readouts": ["tests/test_readouts.py"],
    "significance": ["tests/test_significance.py"],
}
SKIPPED = {
    "eps",
    "seed",
    "manual_seed",
    "generator",
    "draw",
    "randn",
    "rand",
    "round",
    "sum",
    "mean",
    "amax",
    "cat",
    "empty",
}  # tolerances, draws, axes
FLOOR = 1e-8
TURNED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}


def variants(node) -> list[ast.AST]:
    "What a node is damaged to."
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and not 0 < abs(node.value) < FLOOR:
        x = node.value
        return [
            ast.Constant(y)
            for y in ((x + 1, x - 1) if type(x) is int or x == int(x) and x < 20 else (1.1 * x, x / 1.1))
        ]
    if isinstance(node, ast.BinOp) and type(node.op) in TURNED:
        return [ast.BinOp(node.left, TURNED[type(node.op)](), node.right)]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
        return [ast.Compare(node.left, [TURNED[type(node.ops[0])](), *node.ops[1:]], node.comparators)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [node.operand]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "clamp":
        return [node.func.value]
    return []


def places(node, path=(), scope="") -> list[tuple]:
    "Every node that can be damaged: (the way to it, the function it is in)."
    if isinstance(node, (ast.JoinedStr, ast.Raise)) or isinstance(node, ast.keyword) and node.arg in SKIPPED:
        return []
    if isinstance(node, ast.FunctionDef) and node.name.startswith("plot"):
        return []  # pictures are looked at
    scope = getattr(node, "name", scope) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else scope
    found = [(path, scope)] if variants(node) else []
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "slice"):
            continue
        called = isinstance(node, ast.Call) and (getattr(node.func, "attr", None) or getattr(node.func, "id", None))
        if called == "split" and name == "args":
            continue
        children = value if isinstance(value, list) else [value]
        for k, child in enumerate(children):
            if called in SKIPPED and isinstance(child, ast.Constant):
                continue
            if isinstance(child, ast.AST):
                found += places(child, (*path, (name, k if isinstance(value, list) else None)), scope)
    return found


def at(tree, path):
    for name, k in path:
        tree = getattr(tree, name) if k is None else getattr(tree, name)[k]
    return tree


def mutants(source: str) -> list[tuple[str, str]]:
    "(name, damaged source) of every damage to a source."
    tree, found = ast.parse(source), []
    for path, scope in places(tree):
        for new in variants(at(tree, path)):
            damaged = copy.deepcopy(tree)
            name, k = path[-1]
            setattr(at(damaged, path[:-1]), name, new) if k is None else getattr(
                at(damaged, path[:-1]), name
            ).__setitem__(k, new)
            around = next(
                at(tree, path[:i])
                for i in range(len(path), -1, -1)
                if isinstance(at(tree, path[:i]), (ast.stmt, ast.Module))
            )
            line = ast.unparse(around).splitlines()[0][:60]
            twin = f"{scope}: {ast.unparse(at(tree, path))[:60]} -> {ast.unparse(new)[:60]} | {line}"
            while twin in dict(found):
                twin += "'"
            found.append((twin, ast.unparse(ast.fix_missing_locations(damaged))))
    return found


class Reach:
    "For every test its seconds and the functions of one file that it reaches; fixtures count for all that use them."

    def __init__(self, file: str, out: str):
        self.file, self.out, self.fixtures, self.tests = file, out, {}, {}

    @contextmanager
    def watched(self, found: dict, name: str):
        functions, start, before = set(), time.monotonic(), sys.getprofile()
        sys.setprofile(
            lambda frame, event, _: (
                functions.add(frame.f_code.co_name)
                if event == "call" and frame.f_code.co_filename == self.file
                else None
            )
        )
        yield
        sys.setprofile(before)
        seconds, old = found.get(name, (0, set()))
        found[name] = seconds + time.monotonic() - start, old | functions

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        with self.watched(self.fixtures, fixturedef.argname):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        with self.watched(self.tests, item.nodeid):
            result = yield
        used = [self.tests[item.nodeid], *(self.fixtures.get(name, (0, set())) for name in item.fixturenames)]
        self.tests[item.nodeid] = sum(seconds for seconds, _ in used), set().union(*(found for _, found in used))
        return result

    def pytest_sessionfinish(self):
        kept = {test: (seconds, sorted(found)) for test, (seconds, found) in self.tests.items()}
        Path(self.out).write_text(json.dumps(kept), encoding="utf-8")


class Nearest:
    "Leaves the tests that reach a function, the fastest first; all of them where none does: a constant of the module."

    def __init__(self, reached: dict, scope: str, longest: float):
        near = {test: seconds for test, (seconds, found) in reached.items() if scope in found}
        near = near or {test: seconds for test, (seconds, _) in reached.items()}
        self.seconds = {test: seconds for test, seconds in near.items() if seconds <= longest}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if i.nodeid in self.seconds), key=lambda i: self.seconds[i.nodeid])


def run_module(what: tuple[str, object], source: str) -> bool:
    "Do the module's tests pass with this source in its place?"
    import hypothesis

    import dmsil

    name, plugin = what
    quick = {
        "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate],
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    hypothesis.settings.register_profile("unshrunk", derandomize=True, database=None, deadline=None, **quick)
    module = types.ModuleType(f"dmsil.{name}")
    module.__file__, module.__package__ = file_of(name), "dmsil"
    sys.modules[module.__name__] = module
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    setattr(dmsil, name, module)
    words = ["-xq", "-pno:cacheprovider", "-Wignore", "--tb=no", "--hypothesis-profile=unshrunk", *TESTS[name]]
    return pytest.main(words, plugins=[plugin]) in (0, 5)  # 5: no test reaches it


def file_of(name: str) -> str:
    return str(ROOT / "dmsil" / f"{name}.py")


def run_claim(number: int, source: str) -> bool:
    "Does the section hold with this code?"
    sys.path.insert(0, str(ROOT / "tests"))
    import test_claims

    page = test_claims.Section(test_claims.claims.sections())
    page.sources = lambda _: [source]
    return page.run(number) is None


def outcome(run, what, source: str, seconds: int) -> str:
    "noticed, survived, or endless, from a process of its own."
    sys.stdout.flush()
    if not (child := os.fork()):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            os._exit(not run(what, source))
        except BaseException:
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "noticed"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "endless"


def keep(found: dict) -> None:
    "Written here, as `store` imports the library, which is yet to be damaged."
    new = OUT.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(OUT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", help="modules, or claims as P8")
    parser.add_argument("--seconds", type=int, default=120, help="for the tests of one damage")
    parser.add_argument("--longest", type=float, default=3, help="seconds of a test; slower ones don't take part")
    parser.add_argument("--again", choices=AGAIN, default="new", help="which damages are tried")
    options = parser.parse_args()
    os.chdir(ROOT)
    import claims

    for slow in (
        "fastcore.test",
        "hypothesis",
        "jaxtyping",
        "matplotlib.pyplot",
        "scipy.integrate",
        "sympy",
        "torch",
    ):
        importlib.import_module(slow)  # once for all damages

    for what in options.what:
        number = int(what[1:]) if what[1:].isdigit() else None
        cells = claims.sections()[number]["cells"] if number else []
        source = (
            "\n\n".join(t for kind, t in cells if kind == "code" and "plt." not in t) or Path(file_of(what)).read_text()
        )
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            run, arg = (run_claim, number) if number else (run_module, (what, Reach(file_of(what), file.name)))
            if (found := outcome(run, arg, ast.unparse(ast.parse(source)), 600)) != "survived":
                sys.exit(f"{what}: {found} without a damage")
            reached = {} if number else json.loads(file.read())
        old, todo = stored(OUT).get(what, {"noticed": [], "survived": {}}), mutants(source)
        names = [name for name, _ in todo]
        survived = {name: why for name, why in old["survived"].items() if name in names}
        now = {"noticed": [name for name in old["noticed"] if name in names], "survived": survived}
        for name, damaged in todo:
            known = "noticed" if name in now["noticed"] else "survivors" if name in now["survived"] else "new"
            if known not in AGAIN[options.again]:
                continue
            why = now["survived"].pop(name, "")
            now["noticed"] = [n for n in now["noticed"] if n != name]
            arg = number or (what, Nearest(reached, name.split(":")[0], options.longest))
            if outcome(run, arg, damaged, options.seconds) == "survived":
                now["survived"][name] = why
            else:
                now["noticed"].append(name)
            keep(stored(OUT) | {what: now})
        print(
            f"{what}: {len(now['noticed'])} of {len(todo)} noticed",
            *map("  {0[0]}   {0[1]}".format, now["survived"].items()),
            sep="\n",
        )
