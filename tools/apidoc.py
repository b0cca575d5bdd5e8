"What a module exports, read from its text: signatures, docstrings and the comment of each parameter, as a MyST page."

import ast
import io
import json
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL = re.compile(r"^# %% (?:\.\./)+(?P<page>\S+\.ipynb) #(?P<cell>\w+)$")


@dataclass
class Row:
    "A parameter, a field or what is returned."

    name: str
    type: str = ""
    default: str = ""
    comment: str = ""


@dataclass
class Entry:
    "A function, class, method, property or constant."

    kind: str  # function, class, exception, method, property or data
    name: str
    signature: str = ""
    doc: str = ""
    rows: list[Row] = field(default_factory=list)
    returns: Row | None = None
    parts: list["Entry"] = field(default_factory=list)  # methods of a class
    section: tuple[str, str] | None = None  # page and heading where it is explained


class Module:
    "One generated file."

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.name = f"related.{path.stem}" if path.parent.name == "related" else path.stem
        self.text, self.lines, self.tree = text, text.splitlines(), ast.parse(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments = {
            token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT
        }
        self.doc = ast.get_docstring(self.tree) or ""
        self.defined = {node.name: node for node in self.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assigned = [
            (target, node) for node in self.tree.body if isinstance(node, ast.Assign) for target in node.targets
        ]
        self.values = {
            part.id: node for target, node in assigned for part in ast.walk(target) if isinstance(part, ast.Name)
        }
        self.public = ast.literal_eval(self.values["__all__"].value)
        self.notebook = re.search(r"File to edit: (?:\.\./)+(\S+)\.$", text, re.MULTILINE)[1]

    def entries(self) -> list[Entry]:
        "The exported names, in the order of the notebook."
        found = {name: self.defined.get(name) or self.values[name] for name in self.public}
        return [self.entry(name, node) for name, node in sorted(found.items(), key=lambda item: item[1].lineno)]

    def entry(self, name: str, node) -> Entry:
        make = {ast.FunctionDef: self.function, ast.ClassDef: self.klass, ast.Assign: self.value}[type(node)]
        entry = make(name, node)
        entry.section = self.section(node.lineno)
        return entry

    def section(self, line: int) -> tuple[str, str] | None:
        "The page and the heading above the cell that exports what stands in a line."
        match = next(filter(None, map(CELL.match, reversed(self.lines[:line]))), None)
        if not match:
            return None
        heading = ""
        for cell in json.loads((ROOT / match["page"]).read_text(encoding="utf-8"))["cells"]:
            if cell.get("id") == match["cell"]:
                return match["page"], heading
            if cell["cell_type"] == "markdown" and (title := re.match(r"#+ (.+)", "".join(cell["source"]))):
                heading = title[1].strip()
        raise ValueError(f"{self.name}: no cell {match['cell']} in {match['page']}: export the notebook again")

    def function(self, name: str, node: ast.FunctionDef, method: bool = False) -> Entry:
        decorators = {ast.unparse(item) for item in node.decorator_list}
        kind = "property" if {"property", "cached_property"} & decorators else "method" if method else "function"
        rows, shown = self.parameters(node.args, skip_first=method and "staticmethod" not in decorators)
        returns = node.returns and Row(
            "", unparsed(node.returns), comment=self.comments.get(node.returns.end_lineno, "")
        )
        signature = "" if kind == "property" else f"({', '.join(shown)})"
        return Entry(kind, name, signature, ast.get_docstring(node) or "", rows, returns or None)

    def parameters(self, args: ast.arguments, skip_first: bool) -> tuple[list[Row], list[str]]:
        "A row for each parameter, and how the signature shows it."
        plain = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
        taken = [("", arg, value) for arg, value in zip(plain, defaults, strict=True)][skip_first:]
        taken += [("*", args.vararg, None)] if args.vararg else []
        taken += [("", arg, value) for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
        taken += [("**", args.kwarg, None)] if args.kwarg else []
        last = {
            (value or arg).end_lineno: arg.arg for _, arg, value in taken
        }  # of several in a line, the comment is the last one's
        rows = []
        for star, arg, value in taken:
            line = (value or arg).end_lineno
            comment = self.comments.get(line, "") if last[line] == arg.arg else ""
            written = unparsed(arg.annotation) if arg.annotation else ""
            rows.append(Row(star + arg.arg, written, self.written(value), comment))
        shown = [f"{row.name}={row.default}" if row.default else row.name for row in rows]
        if args.kwonlyargs and not args.vararg:
            shown.insert(len(plain) - skip_first, "*")
        return rows, shown

    def written(self, node: ast.expr | None) -> str:
        "A value as it stands in the file, in one line."
        return " ".join(ast.get_source_segment(self.text, node).split()) if node else ""

    def klass(self, name: str, node: ast.ClassDef) -> Entry:
        bases = [ast.unparse(base) for base in node.bases]
        kind = "exception" if any(base.endswith(("Error", "Exception")) for base in bases) else "class"
        entry = Entry(kind, name, "", ast.get_docstring(node) or "")
        members = self.members(node)
        if "__init__" in members:
            start = self.function("__init__", members["__init__"], method=True)
            entry.signature, entry.rows = start.signature, start.rows
        elif any("dataclass" in ast.unparse(item) for item in node.decorator_list) or "NamedTuple" in bases:
            entry.rows = [self.field(item) for item in members.values() if isinstance(item, ast.AnnAssign)]
            entry.signature = (
                "(" + ", ".join(f"{row.name}={row.default}" if row.default else row.name for row in entry.rows) + ")"
            )
        named = {
            key: item for key, item in members.items() if isinstance(item, ast.FunctionDef) and key != "extra_repr"
        }
        entry.parts = [self.function(key, item, method=True) for key, item in named.items() if not key.startswith("_")]
        return entry

    def members(self, node: ast.ClassDef) -> dict:
        "What a class holds, with what it has from private classes of the same module."
        bases = [self.defined[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in self.defined]
        found = {}
        for base in reversed(bases):
            found |= self.members(base)
        own = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AnnAssign))]
        return found | {item.name if isinstance(item, ast.FunctionDef) else item.target.id: item for item in own}

    def field(self, node: ast.AnnAssign) -> Row:
        default = self.written(node.value)
        if made := re.fullmatch(r"field\(default_factory=(.+?)\)", default):
            default = {"dict": "{}", "list": "[]"}.get(
                made[1], made[1].removeprefix("lambda: ") if "lambda" in made[1] else f"{made[1]}()"
            )
        return Row(node.target.id, unparsed(node.annotation), default, self.comments.get(node.end_lineno, ""))

    def value(self, name: str, node: ast.Assign) -> Entry:
        value, target = node.value, node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            value = value.elts[[part.id for part in target.elts].index(name)]
        shown, comment = self.written(value), self.comments.get(node.lineno, "")
        return Entry("data", name, shown if len(shown) <= 90 else shown[:80].rpartition(" ")[0] + " …", comment)


def unparsed(annotation: ast.expr) -> str:
    "An annotation as it is written; a quoted one without its quotes."
    quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return annotation.value if quoted else ast.unparse(annotation).replace("'", '"')


# ---------------------------------------------------------------- as MyST


def slug(heading: str) -> str:
    "The address of a heading within its page, as JupyterLab makes it."
    return heading.replace(" ", "-")


def prose(text: str) -> str:
    "Plain words as Markdown: what stands between backticks is code, and P22 leads to its claim."
    parts = re.split(r"(`[^`]+`)", text)
    plain = [part if part.startswith("`") else re.sub(r"([\\*_$<>\[\]|~#])", r"\\\1", part) for part in parts]
    return "".join(
        part if part.startswith("`") else re.sub(r"\bP(\d{1,2})\b", r"[P\1](#claim-p\1)", part) for part in plain
    )


def code(text: str) -> str:
    "Code in a cell of a table."
    return f"`{text}`".replace("|", r"\|") if text else ""


def rows_of(entry: Entry) -> list[str]:
    "The table of the parameters."
    if not entry.rows and not (entry.returns and entry.returns.comment):
        return []
    rows = [[code(row.name), code(row.type), prose(row.comment)] for row in entry.rows]
    if entry.returns and (entry.returns.type != "None" or entry.returns.comment):
        rows.append(["*returns*", code(entry.returns.type), prose(entry.returns.comment)])

    return ["", "| | type | |", "|---|---|---|", *(f"| {' | '.join(cells)} |" for cells in rows), ""]


def directive(entry: Entry, owner: str = "", fence: str = "::::") -> list[str]:
    "An entry as a directive of Sphinx's Python domain, which gives it an address and a line in the index."
    called = entry.kind not in ("data", "property")
    arrow = (
        f" -> {entry.returns.type}" if called and entry.returns and not entry.rows and not entry.returns.comment else ""
    )
    lines = [f"{fence}{{py:{entry.kind}}} {owner}{entry.name}{entry.signature * called}{arrow}"]
    lines += [f":value: {json.dumps(entry.signature, ensure_ascii=False)}"] * (entry.kind == "data")
    lines += [f":type: {entry.returns.type}"] if entry.kind == "property" and entry.returns else []
    lines += ["", *([prose(entry.doc), ""] if entry.doc else []), *rows_of(entry)]
    for part in entry.parts:
        lines += directive(part, f"{entry.name}.", fence[:-1])
    if entry.section:
        page, heading = entry.section
        lines += [f"*Explained in [{heading or Path(page).stem}](/{page}{'#' + slug(heading) if heading else ''})*"]
    return [*lines, fence, ""]


def page(module: Module, title: str) -> str:
    "The page of a module."
    lines = [
        f"# dmsil.{module.name}",
        "",
        prose(module.doc),
        "",
        f"Derived, explained and tried in [{title}](/{module.notebook}).",
        "",
    ]
    lines += [f":::{{py:module}} dmsil.{module.name}", ":::", ""]
    for entry in module.entries():
        lines += directive(entry)
    return "\n".join(lines)


def modules() -> list[Module]:
    "Every module with exported names, in the order of their notebooks."
    paths = [*(ROOT / "dmsil").glob("*.py"), *(ROOT / "dmsil" / "related").glob("*.py")]
    found = [Module(path) for path in paths if not path.stem.startswith("_")]
    return sorted(found, key=lambda module: (module.notebook, module.name))


def package_names() -> list[tuple[str, str]]:
    "What the package itself gives, and from which module."
    tree = ast.parse((ROOT / "dmsil" / "__init__.py").read_text(encoding="utf-8"))
    home = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_HOME")
    return sorted((name, module) for module, names in ast.literal_eval(home).items() for name in names)
