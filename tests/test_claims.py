"The claims: each stated once, proven under the same title on named evidence, by checks that fail when the claim is damaged."

import ast
import json
import re
from pathlib import Path

import claims
import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MEASURED = {21}  # no proof, only numbers, where they are stated
NUMBERS = sorted(set(range(1, 47)) - MEASURED)
CHECKS = {"test_close", "test_eq", "test_fail", "test_ne", "test"}


@pytest.fixture(scope="module")
def sections():
    return claims.sections()


def code(section) -> list[str]:
    return [text for kind, text in section["cells"] if kind == "code"]


def assertions(source: str) -> list[ast.AST]:
    "The assertions of a cell that compute something: `assert True` is none."
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Assert, ast.Call))]
    tests = [node.test if isinstance(node, ast.Assert) else node for node in nodes]
    named = [
        t
        for t, node in zip(tests, nodes, strict=True)
        if isinstance(node, ast.Assert) or getattr(node.func, "id", None) in CHECKS
    ]
    return [t for t in named if any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(t))]


def test_every_claim_is_stated_once():
    stated = [row["number"] for row in claims.statements()]
    assert sorted(stated) == sorted([*NUMBERS, *MEASURED])


@pytest.mark.parametrize("number", NUMBERS)
def test_claim_is_proven(number, sections):
    row = next(row for row in claims.claims() if row["number"] == number)
    assert row["proof_notebook"], f"P{number} has no section in {claims.PROOFS}"
    assert sections[number]["title"] == row["title"]
    assert row["evidence"] in claims.KINDS
    prose = "\n".join(text for kind, text in sections[number]["cells"] if kind == "markdown")
    assert "*Assumptions.*" in prose and re.search(r"\*Derivation[^*]*\*", prose)
    assert sum(len(assertions(source)) for source in code(sections[number])) >= 3


@pytest.mark.parametrize("number", NUMBERS)
def test_a_wrong_variant_is_rejected(number, sections):
    cells = sections[number]["cells"]
    at = next(
        (k for k, (kind, text) in enumerate(cells) if kind == "markdown" and re.search(r"[Ww]rong variant", text)), None
    )
    assert at is not None, f"P{number} shows no wrong variant"
    after = "\n".join(text for kind, text in cells[at:] if kind == "code")
    rejecting = [t for t in assertions(after) if re.search(r"^not |test_fail|!=|>|<", ast.unparse(t))]
    assert rejecting, f"P{number}'s wrong variant is not rejected by an assertion"


def test_sections_prove_nothing_unstated(sections):
    assert set(sections) - {None} == set(NUMBERS)


def test_the_page_of_proofs_lists_every_claim():
    assert ("markdown", claims.listed()) in claims.cells(claims.PROOFS)


def test_table_names_every_claim():
    rows = claims.table().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| P{number}" for number in sorted([*NUMBERS, *MEASURED])]
    assert [row["number"] for row in claims.claims() if row["evidence"] == "measured"] == sorted(MEASURED)
    for row in rows:
        for page in re.findall(r"\]\((.+?)\)", row):
            assert (ROOT / page).is_file()


def test_what_is_trusted_names_every_rule(sections):
    "The table beside the helper: a row for each claim proven at any n and d, with exactly the rules that its section assumes."
    text = next(text for kind, text in sections[None]["cells"] if kind == "markdown" and "| rules assumed |" in text)
    rows = {
        int(cells[0][1:]): cells
        for line in text.splitlines()
        if line.startswith("| P")
        for cells in [line.strip("| ").split(" | ")]
    }
    any_size = {
        row["number"]: row for row in claims.claims() if (row["evidence"] or "").startswith("SymPy, any n and d")
    }
    assert set(rows) == set(any_size)
    for number, (_, rules, proven, by_hand) in rows.items():
        assert re.findall("`(.+?)`", rules) == claims.assumed(sections[number]), f"P{number}"
        assert proven != "–"
        if any_size[number]["evidence"].endswith("rest by hand"):
            prose = "\n".join(text for kind, text in sections[number]["cells"] if kind == "markdown")
            assert by_hand != "–" and re.search("by hand", prose, re.IGNORECASE), f"P{number}"


def test_duplicate_proofs_are_refused(tmp_path, monkeypatch):
    heading = {"cell_type": "markdown", "source": ["## P1 · A claim"]}
    (tmp_path / "twice.ipynb").write_text(json.dumps({"cells": [heading, heading]}), encoding="utf-8")
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="proves P1 twice"):
        claims.sections("twice.ipynb")


# Each line damages a claim in its own proof section: (number, what the section says, what it is made to say).
MUTATIONS = [
    (1, "explicit = Identity(n) - OneMatrix(n, n) / n", "explicit = Identity(n) - OneMatrix(n, n) / m"),
    (2, "Trace((H * D_a * v).T * (H * D_a * v)) / m", "Trace((D_a * v).T * (D_a * v)) / m"),
    (3, "gradient = kappa_0 * H * D_a * gap", "gradient = 2 * kappa_0 * H * D_a * gap"),
    (3, "gradient = kappa_0 * H * D_a * gap", "gradient = kappa_0 * D_a * gap"),
    (3, "by_sympy[D_b], -kappa_0 * H", "by_sympy[D_b], kappa_0 * H"),
    (4, "equal(ell(D_a * Q, D_b * Q), ell", "equal(ell(D_a * Q, D_b), ell"),
    (4, "test_close(coral(a, shuffled), coral(a, b)", "test_close(kappa(a, shuffled), kappa(a, b)"),
    (5, "(Trace(dC * dC) + 2 / m * Trace(gap", "(Trace(dC * dC) + 1 / m * Trace(gap"),
    (6, "along.diff(t, 2).subs(t, 0) + kappa_0 * mu)", "along.diff(t, 2).subs(t, 0) - kappa_0 * mu)"),
    (5, "turned = lambda E: -kappa_0 * H * E * C_b", "turned = lambda E: -kappa_0 * E * C_b"),
    (6, "H * u: u, ", ""),
    (6, "rules={A * B: A * A})", "rules={A * A: A})"),
    (7, "(2 * norm(C_a) + norm(C_a - C_b))", "(norm(C_a) + norm(C_a - C_b))"),
    (8, "2 * unit - B * X - X * B", "2 * unit - B * X"),
    (8, "velocity = lambda Delta: -kappa_0 * H * D_a", "velocity = lambda Delta: -kappa_0 * D_a"),
    (8, "solution = B_inv + E * Y * E", "solution = B_inv + E * Y"),
    (9, "K_dot = H * D_a_dot * D_b.T * H + H * D_a * D_b_dot.T * H", "K_dot = D_a_dot * D_b.T + D_a * D_b_dot.T"),
    (9, "cross = lambda a, b: centred(a) @ centred(b).T", "cross = lambda a, b: a @ b.T"),
    (9, "X_dot = kappa_0 * (Delta * X + X * Delta)", "X_dot = kappa_0 * Delta * X"),
    (10, "assert equal((S * T + T * S) / 2", "assert equal((S * T + T * S)"),
    (11, "(1 - rho**2) * R_b * R_b", "(1 - rho) * R_b * R_b"),
    (12, "signal + (marginal - pairing) / m", "signal + (marginal + pairing) / m"),
    (13, "corrected = m / ((m - 1) * (m + 2))", "corrected = m / ((m - 1) * (m + 1))"),
    (13, "U = S / falling(2) - (r_2 + c_2 - 2 * S)", "U = S / falling(2) - (r_2 + c_2 - S)"),
    (14, "claim = (d + 1) * (1 + c**2 - 2 * c", "claim = d * (1 + c**2 - 2 * c"),
    (14, "inner - (d + 1) / (d * (n_any - 1))", "inner - d / (d * (n_any - 1))"),
    (14, "test_close(small.mean(), exact(inner, 8, 4)", "test_close(small.mean(), exact(inner * d / (d + 1), 8, 4)"),
    (14, "limit - q / (2 + q)", "limit - q / (1 + q)"),
    (
        14,
        "test_close(cosines.mean(), exact(cosine_of_means, 32, 128)",
        "test_close(cosines.mean(), (128 / 32 / (2 + 128 / 32))**0.5",
    ),
    (15, "full_claim = (d**2 + d -", "full_claim = (d**2 -"),
    (16, "- 2 * s**2 * (C_a * C_b).trace()", "+ 2 * s**2 * (C_a * C_b).trace()"),
    (16, "sp.exp(2 * size * kappa_0 * mu * t)", "sp.exp(size * kappa_0 * mu * t)"),
    (17, "D_b.shape[1]) / 2 * np.log", "D_b.shape[1]) / 2.7 * np.log"),
    (17, "rho2: (0, 1)", "rho2: (0, 0.82)"),
    (17, "kappa: (-1, 1)", "kappa: (-1.1, 1)"),
    (18, "expectation(Trace(C * C.T)", "expectation(Trace(C * C)"),
    (18, "average - centred_product / (n * (n - 3))", "average - centred_product / (n * (n - 2))"),
    (20, "- tau * pairing - tau**2 * 2", "+ tau * pairing - tau**2 * 2"),
    (22, "claim = y_m + (delta_s", "claim = y_m - (delta_s"),
    (23, "test_close(scaled_tails[1000], 2 / np.pi", "test_close(scaled_tails[1000], 0.62"),
    (24, "claim = (n - p) ** 2 / (n * p)", "claim = (n - p) ** 2 / (n + p)"),
    (25, "zero = delta_m * (delta_m - y_m)", "zero = delta_m * (y_m - delta_m)"),
    (26, "w = 2 * j / (i * (i + 1))", "w = j / (i * (i + 1))"),
    (28, "W.diff(u) - sp.sech(u) ** 2", "W.diff(u) - sp.sech(u)"),
    (29, "Trace(K_ab * K_ab.T), centring)", "Trace(K_a * K_b), centring)"),
    (30, "+ n * (x_bar - c) * (x_bar - c).T", "+ m * (x_bar - c) * (x_bar - c).T"),
    (30, "(2**-24 * (1 + mu**2))", "(2**-24 * (1 + mu))"),
    (31, "Q = sp.Matrix([[c, -s], [s, c]])", "Q = sp.Matrix([[c, s], [s, c]])"),
    (33, "root = sp.sqrt(1 - sp.exp(-2 * nats / k))", "root = sp.sqrt(1 - sp.exp(-nats / k))"),
    (35, "sign * form(part) for sign, part in blocks\n    ) / 2", "sign * form(part) for sign, part in blocks\n    )"),
    (35, "- rho**2 * (u**2 + v**2) / 2) / (1 - rho**2)", "- rho * (u**2 + v**2) / 2) / (1 - rho**2)"),
    (36, "log_mean = sp.digamma(k / 2) + sp.log(2)", "log_mean = sp.digamma(k / 2) - sp.log(2)"),
    (36, "T[0, 0] ** 2 * T[1, 1] ** 2", "T[0, 0] * T[1, 1]"),
    (36, "return (I_hat.mean() - shared(Sigma)).item()", "return I_hat.mean().item()"),
    (36, "assert abs(error - total(30, 3, 2)) < 4 * se", "assert abs(error - 1.05 * total(30, 3, 2)) < 4 * se"),
    (
        36,
        "float((beta(d_a, n) + beta(d_b, n) - beta(d_a + d_b, n))",
        "float((1.05 * beta(d_a, n) + beta(d_b, n) - beta(d_a + d_b, n))",
    ),
    (37, "squared(0, 4) - rho_s**2 * kappa_s) == 0", "squared(0, 4) - rho_s * kappa_s) == 0"),
    (37, "S_st**2 * kappa_s * kappa_t) == 0", "S_st**2 * kappa_s) == 0"),
    (38, "2 * G_k * (P_k + R_k) - 2 * P_k", "G_k * (P_k + R_k) - P_k"),
    (38, "in_words = ((1 - K) * g + K * y_m) / rho", "in_words = (1 - K) * g + K * y_m"),
    (38, "K = (rho**2 - R_squared) / (1 - R_squared)", "K = (rho - R_squared) / (1 - R_squared)"),
    (39, "Sigma_t.inv() * audio * beta_a)", "audio * beta_a)"),
    (39, "beta_a * parallel / Sigma_t.det()", "beta_a * parallel"),
    (40, "rho[i] * rho[j] * c[i, j] / (r[i] * r[j])", "c[i, j] / (r[i] * r[j])"),
    (40, "[r[i] ** 2 / rho[i] ** 2 for", "[r[i] / rho[i] for"),
    (41, "zero((sp.eye(len(F)) - H_FF) * e - r_F)", "zero(e - (sp.eye(len(F)) - H_FF) * r_F)"),
    (41, "residual / (1 - leverage), one_by_one", "residual / (1 - leverage)**2, one_by_one"),
    (41, "Trace(spread) * Trace(Hat * Hat)", "Trace(spread) * Trace(Hat)"),
    (42, "1 - 2 * rho[s] + (G * P)[s, s]", "1 - rho[s] + (G * P)[s, s]"),
    (42, "G[0, t] ** 2 / kappas[t] ** 2", "G[0, t] ** 2 / kappas[t]"),
    (43, "everywhere = p_values(A, B, scaled(range(4))", "everywhere = p_values(A, B, scaled(range(2))"),
    (43, "assert worst(p_values(*longer, scaled(range(6))", "assert worst(p_values(*longer, scaled(range(3))"),
    (
        43,
        "T(A, seen) for pi in S), len(S)))\n    return found\n\n\ndef worst",
        "T(A, B) for pi in S), len(S)))\n    return found\n\n\ndef worst",
    ),
    (43, "on_a_part = p_values(A, B, scaled(range(2))", "on_a_part = p_values(A, B, scaled(range(4))"),
    (43, "test_close(K_moved, K[order][:, order]", "test_close(K_moved, K"),
    (44, "R_2 - R_2**2 / R_1)", "R_2 - R_2**2)"),
    (44, "[0, (R_2 / R_1) ** 2 * R_1", "[0, (R_2 / R_1) * R_1"),
    (44, "torch.tanh(s)", "torch.tanh(0.5 + 0 * s)"),
    (44, "max(alone(c_1), alone(c_2))", "min(alone(c_1), alone(c_2))"),
    (44, "+ c_1 @ c_2.T", "+ 0.9 * c_1 @ c_2.T"),
    (44, "[R_1 * R_2, R_2, R_2]", "[R_1 * R_2 / R_1, R_2, R_2]"),
    (45, "+ 2 * k**2 * sp.integrate(phi(z), (z, k, sp.oo))", "+ k**2 * sp.integrate(phi(z), (z, k, sp.oo))"),
    (45, "growth = 4 * A / B**2", "growth = 2 * A / B**2"),
    (45, "else 2 / torch.pi for", "else 0.61 for"),
    (46, "- M.det() * around.det()", "- M.det()"),
    (46, "left(clips, [0, 1]) / left(clips, [])\nassert", "left(clips, [0, 1])\nassert"),
    (46, "return (1 - by.sizes / len(who)) * (whole", "return (whole"),
]


class Section:
    "Runs a section's cells after the page's set-up, as a reader would who skips the other sections."

    def __init__(self, sections):
        self.sections, self.namespace = sections, {"__name__": "__main__"}
        matplotlib.use("Agg")
        for k, source in enumerate(code(sections[None])):
            exec(compile(source, f"<set-up {k}>", "exec"), self.namespace)

    def sources(self, number) -> list[str]:
        "The section's cells; a cell that only draws is left out."
        return [s for s in code(self.sections[number]) if "plt." not in s or assertions(s)]

    def run(self, number, old=None, new=None):
        sources = self.sources(number)
        if old is not None:
            assert old != new and sum(s.count(old) for s in sources) == 1, (
                f"P{number} no longer says {old!r} (once): adapt the mutation"
            )
            sources = [s.replace(old, new) for s in sources]
        namespace = dict(self.namespace)
        for k, source in enumerate(sources):
            exec(compile(source, f"<P{number}, cell {k}>", "exec"), namespace)


@pytest.fixture(scope="module")
def page(sections):
    return Section(sections)


@pytest.mark.parametrize("number", sorted({number for number, _, _ in MUTATIONS}))
def test_section_holds_as_it_stands(number, page):
    page.run(number)


@pytest.mark.parametrize("number, old, new", MUTATIONS, ids=[f"P{line[0]}-{k}" for k, line in enumerate(MUTATIONS)])
def test_damaged_claim_is_noticed(number, old, new, page):
    with pytest.raises(AssertionError) as caught:
        page.run(number, old, new)
    assert "no longer says" not in str(caught.value), caught.value
