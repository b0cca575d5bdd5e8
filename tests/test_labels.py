"The label generator against an independent restatement in NumPy, and its edges."

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmsil.labels import (
    LabelGenerator,
    RunningLine,
    axis_coordinate,
    bounded_distance,
    centre_distances,
    class_means,
    class_sums,
    disagreement,
    momentum,
    relative_distance,
    selfmm_label,
)

DIMS = {"text": 5, "fusion": 7, "audio": 3}  # "fusion" is not first on purpose


class Restated:
    "Self-MM's generator, and the calibrated read-out, one clip at a time; centres are means over all clips, taken anew."

    def __init__(self, labels, dims, bound, mode, neutral):
        self.dims, self.bound, self.mode, self.neutral = dims, bound, mode, neutral
        self.y = {s: np.array(labels, dtype=float) for s in dims}
        self.F = {s: np.zeros((len(labels), d)) for s, d in dims.items()}
        self.t = {}
        self.centre()

    def centre(self):
        self.C = {}
        for s in self.dims:
            positive = self.y[s] > 0 if self.neutral == "exclude" else self.y[s] >= 0
            self.C[s] = self.F[s][positive].mean(0), self.F[s][self.y[s] < 0].mean(0)

    def distances(self, s, x):
        p, n = self.C[s]
        return np.linalg.norm(x - p), np.linalg.norm(x - n), np.linalg.norm(p - n)

    def delta(self, s, x):
        p, n, _ = self.distances(s, x)
        return (n - p) / (p + 1e-8)

    def coordinate(self, s, x):
        p, n, pn = self.distances(s, x)
        return (n**2 - p**2) / pn**2

    def update(self, features, rows, epoch):
        if epoch >= 2:
            if self.mode == "robust":
                for k, i in enumerate(rows):
                    self.t[i] = self.coordinate("fusion", features["fusion"][k])
                b, a = np.polyfit(list(self.t.values()), self.y["fusion"][list(self.t)], 1)
            for s in self.dims:
                if s == "fusion":
                    continue
                for k, i in enumerate(rows):
                    y_m = self.y["fusion"][i]
                    if self.mode == "robust":
                        new = a + b * self.coordinate(s, features[s][k])
                    else:
                        d_m, d_s = self.delta("fusion", features["fusion"][k]), self.delta(s, features[s][k])
                        new = (d_s / (d_m + 1e-8) * y_m + y_m + d_s - d_m) / 2
                    new = min(max(new, -self.bound), self.bound)
                    self.y[s][i] = (epoch - 1) / (epoch + 1) * self.y[s][i] + 2 / (epoch + 1) * new
        for s in self.dims:
            self.F[s][rows] = features[s]
        self.centre()


def corpus(seed, n=60, neutral=5):
    "Labels (some exactly 0) and features that move a little from epoch to epoch."
    rng = np.random.default_rng(seed)
    labels = rng.uniform(-3, 3, n)
    labels[rng.choice(n, neutral, replace=False)] = 0
    directions = {s: rng.normal(size=d) for s, d in DIMS.items()}

    def features(epoch):
        return {
            s: np.outer(labels + rng.normal(size=n), u) + rng.normal(size=(n, len(u))) + 0.1 * epoch
            for s, u in directions.items()
        }

    return labels, features, rng


def feed(gen, features, rows, epoch):
    gen.update({s: torch.tensor(F[rows]) for s, F in features.items()}, torch.tensor(rows), epoch)


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
@pytest.mark.parametrize("neutral", ["exclude", "positive"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_generator_equals_the_restatement(mode, neutral, seed):
    "Five epochs, shuffled batches, the last of each dropped in epoch 1, labels compared after every step."
    labels, draw, rng = corpus(seed)
    ours = LabelGenerator(torch.tensor(labels), DIMS, bound=3.0, mode=mode, neutral=neutral)
    theirs = Restated(labels, DIMS, 3.0, mode, neutral)
    for epoch in range(1, 6):
        features, order = draw(epoch), rng.permutation(len(labels))
        for rows in np.split(order, range(16, len(order), 16))[: 3 if epoch == 1 else None]:
            feed(ours, features, rows, epoch)
            theirs.update({s: F[rows] for s, F in features.items()}, rows, epoch)
            for s, y in ours.labels.items():
                np.testing.assert_allclose(y.numpy(), theirs.y[s], atol=1e-6, rtol=0)
        for C, s in zip(ours.means().split(ours.widths, 1), ours.dims, strict=True):
            np.testing.assert_allclose(C.numpy(), np.stack(theirs.C[s]), atol=1e-9)
    assert any((y.numpy() * labels < 0).any() for y in ours.labels.values())  # clips did change sides
    assert all(np.abs(y.numpy() - labels).mean() > 0.05 for y in ours.labels.values())


def test_neutral_clips_decide_something():
    "The two public conventions differ on a corpus with zeros, so that the test above can't pass with one for the other."
    labels, draw, _ = corpus(0)
    features, got = draw(1), {}
    for neutral in ("exclude", "positive"):
        gen = LabelGenerator(torch.tensor(labels), DIMS, neutral=neutral)
        for epoch in (1, 2):
            feed(gen, features, np.arange(len(labels)), epoch)
        got[neutral] = gen.labels["text"]
    assert (got["exclude"] - got["positive"]).abs().max() > 1e-2


def test_labels_are_read_before_the_step_moves_the_centres():
    "By hand, one dimension: centres ±1 from epoch 1, and the step brings features that would move them."
    gen = LabelGenerator(torch.tensor([1.0, -1.0], dtype=torch.float64), {"fusion": 1, "text": 1})
    ones = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    gen.update({"fusion": ones, "text": ones}, torch.tensor([0, 1]), 1)
    gen.update({"fusion": 0.5 * ones, "text": 0.25 * ones}, torch.tensor([0, 1]), 2)
    d_m, d_s = (1.5 - 0.5) / 0.5, (1.25 - 0.75) / 0.75
    new = (d_s / d_m + 1 + d_s - d_m) / 2
    assert gen.labels["text"][0].item() == pytest.approx(1 / 3 + 2 / 3 * new, abs=1e-6)
    assert gen.means().tolist() == [[0.5, 0.25], [-0.5, -0.25]]


def test_epoch_one_writes_no_labels():
    labels, draw, rng = corpus(3)
    gen = LabelGenerator(torch.tensor(labels), DIMS, mode="robust")
    for rows in np.split(rng.permutation(60), 4):
        feed(gen, draw(1), rows, 1)
    assert all(torch.equal(y, torch.tensor(labels)) for y in gen.labels.values())


def test_unvisited_rows_count_as_zeros():
    gen = LabelGenerator([1.0, 2.0, 3.0, -1.0, -2.0], {"fusion": 2, "text": 1})
    gen.update({"fusion": torch.tensor([[3.0, 6.0]]), "text": torch.tensor([[9.0]])}, torch.tensor([1]), 1)
    assert gen.means().tolist() == [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
@pytest.mark.parametrize("labels", [[1.0, 2.0, 0.5], [-1.0, -2.0, -0.5], [0.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
def test_an_empty_class_leaves_the_multimodal_label(labels, mode):
    torch.manual_seed(0)
    gen = LabelGenerator(labels, {"fusion": 2, "text": 2}, mode=mode)
    for epoch in range(1, 5):
        gen.update({s: torch.randn(3, 2) for s in gen.dims}, torch.arange(3), epoch)
    assert torch.equal(gen.labels["text"], torch.tensor(labels))
    assert torch.equal(gen.weights("text", torch.arange(3)), torch.zeros(3))
    assert all(buffer.isfinite().all() for buffer in gen.state_dict().values())


def test_a_class_that_empties_later_freezes_its_modality_only():
    "Every label of the words turns positive; from then on theirs stay and the voice's go on."
    gen = LabelGenerator(torch.tensor([1.0, -1.0, 1.0, -1.0]), {"fusion": 1, "text": 1, "audio": 1})
    gen.y[1] = torch.tensor([1.0, 0.5, 1.0, 0.5])
    gen.counts[:, 1] = torch.tensor([4, 0])
    F, rows = torch.tensor([[2.0], [-2.0], [1.0], [-1.0]]), torch.arange(4)
    for epoch in (1, 2):
        gen.update({"fusion": F, "text": F, "audio": torch.tensor([[1.0], [0.0], [2.0], [-3.0]])}, rows, epoch)
    assert gen.labels["text"].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert (gen.labels["audio"] - gen.y[0]).abs().min() > 1e-3


@pytest.mark.parametrize("kind", ["zero", "exactly −1e-8", "empty class"])
def test_denominators_of_zero(kind):
    one = torch.ones(1, dtype=torch.float64)
    if kind == "zero":  # δ_m = 0: finite, enormous, then ±H
        new = selfmm_label(0.3 * one, 0 * one, -one)
        assert new.isfinite() and momentum(-one, new, 2, 3.0).item() == pytest.approx(-1 / 3 - 2)
    elif kind == "exactly −1e-8":  # the denominator itself is 0: the old label stays
        new = selfmm_label(0.3 * one, -1e-8 * one, one)
        assert new.isinf() and momentum(one, new, 2, 3.0) == 1
    else:
        assert momentum(one, one * torch.nan, 2, 3.0) == 1


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_bit_for_bit(mode):
    labels, draw, rng = corpus(4)
    make = lambda: LabelGenerator(torch.tensor(labels, dtype=torch.float32), DIMS, mode=mode)
    steps = []
    for epoch in range(1, 5):
        features = draw(epoch)
        steps += [({s: F[rows] for s, F in features.items()}, rows, epoch) for rows in np.split(rng.permutation(60), 5)]

    def walk(gen, steps):
        for F, rows, epoch in steps:
            gen.update({s: torch.tensor(x) for s, x in F.items()}, torch.tensor(rows), epoch)
        return gen

    through = walk(make(), steps)
    for stop in (3, 8, 17):
        file = io.BytesIO()
        torch.save(walk(make(), steps[:stop]).state_dict(), file)
        file.seek(0)
        resumed = make()
        resumed.load_state_dict(torch.load(file, weights_only=True))
        walk(resumed, steps[stop:])
        assert all(
            torch.equal(a, b) for a, b in zip(through.state_dict().values(), resumed.state_dict().values(), strict=True)
        )


def test_a_robust_state_does_not_load_into_a_selfmm_generator():
    robust, faithful = (
        LabelGenerator([1.0, -1.0], {"fusion": 1, "text": 1}, mode=mode) for mode in ("robust", "selfmm")
    )
    with pytest.raises(RuntimeError, match="line.moments"):
        faithful.load_state_dict(robust.state_dict())


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_the_order_of_rows_within_a_batch_does_not_matter(mode):
    labels, draw, rng = corpus(5)
    a, b = (LabelGenerator(torch.tensor(labels), DIMS, mode=mode) for _ in range(2))
    for epoch in range(1, 5):
        features = draw(epoch)
        for rows in np.split(rng.permutation(60), 4):
            feed(a, features, rows, epoch)
            feed(b, features, rng.permutation(rows), epoch)
    for s in a.labels:
        torch.testing.assert_close(a.labels[s], b.labels[s], atol=1e-9, rtol=0)


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_a_row_twice_in_a_batch_counts_once_and_the_last_wins(mode):
    labels, draw, _ = corpus(6)
    plain, padded = (LabelGenerator(torch.tensor(labels), DIMS, mode=mode) for _ in range(2))
    for epoch in range(1, 4):
        first, second = draw(epoch), draw(epoch)
        rows = np.arange(60)
        feed(plain, second, rows, epoch)
        both = {s: torch.tensor(np.concatenate([first[s][:7], second[s]])) for s in DIMS}
        padded.update(both, torch.tensor(np.concatenate([rows[:7], rows])), epoch)
    assert torch.equal(plain.counts, padded.counts)
    for key, buffer in plain.state_dict().items():
        torch.testing.assert_close(buffer, padded.state_dict()[key], atol=1e-8, rtol=1e-9)


def test_all_occurrences_of_a_row_write_the_same(monkeypatch):
    "Which of two unequal writes to one place wins is left open on a GPU; so none are made."
    written = {}
    monkeypatch.setattr(LabelGenerator, "replace", lambda self, rows, once, y, F: written.update(y=y, F=F))
    gen = LabelGenerator([1.0, -1.0, 2.0], {"fusion": 1, "text": 1})
    gen.update({s: torch.randn(4, 1) for s in gen.dims}, torch.tensor([2, 0, 2, 2]), 1)
    for values in (written["y"].T, written["F"]):
        assert torch.equal(values[0], values[3]) and torch.equal(values[2], values[3])
    assert not torch.equal(written["F"][0], written["F"][1])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_features_that_are_not_finite_leave_their_clip_alone(mode, poison):
    labels, draw, _ = corpus(7)
    clean, hit = (LabelGenerator(torch.tensor(labels), DIMS, mode=mode) for _ in range(2))
    features = draw(1)
    for gen in (clean, hit):
        feed(gen, features, np.arange(60), 1)
    bad = {s: F.copy() for s, F in features.items()}
    bad["fusion"][3], bad["text"][3], bad["audio"][3] = poison, poison, poison
    feed(hit, bad, np.arange(10), 2)
    feed(clean, features, np.array([0, 1, 2, 4, 5, 6, 7, 8, 9]), 2)
    for key, buffer in clean.state_dict().items():
        torch.testing.assert_close(hit.state_dict()[key], buffer, atol=1e-9, rtol=1e-9)
    assert hit.labels["text"][3] == labels[3]


def test_an_empty_batch_changes_nothing():
    for mode in ("selfmm", "robust"):
        gen = LabelGenerator([1.0, -1.0], {"fusion": 1, "text": 1}, mode=mode)
        gen.update({s: torch.tensor([[1.0], [-1.0]]) for s in gen.dims}, torch.arange(2), 1)
        before = copy.deepcopy(gen.state_dict())
        gen.update({s: torch.empty(0, 1) for s in gen.dims}, torch.empty(0, dtype=torch.long), 2)
        assert all(torch.equal(before[k], v) for k, v in gen.state_dict().items())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 30), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_running_centres_are_the_means(seed, steps, scale):
    torch.manual_seed(seed)
    y, F, widths, once = torch.randn(2, 12).round(), torch.zeros(12, 5), [2, 3], torch.ones(12, dtype=torch.bool)
    sums, counts = class_sums(y, F, once, widths)
    for _ in range(steps):
        rows = torch.randperm(12)[:4]
        out = class_sums(y[:, rows], F[rows], once[:4], widths)
        y[:, rows], F[rows] = torch.randn(2, 4).round(), scale * torch.randn(4, 5)
        new = class_sums(y[:, rows], F[rows], once[:4], widths)
        sums, counts = sums - out[0] + new[0], counts - out[1] + new[1]
    parts = F.double().split(widths, 1), class_means(sums, counts, widths).split(widths, 1)
    for y_s, F_s, C in zip(y, *parts, strict=True):
        expected = torch.stack([F_s[y_s > 0].mean(0), F_s[y_s < 0].mean(0)])
        torch.testing.assert_close(C, expected, atol=scale * 1e-12, rtol=0, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 20))
def test_running_line_is_least_squares(seed, steps):
    rng = np.random.default_rng(seed)
    line, seen, y = RunningLine(20), {}, rng.normal(size=20)
    for _ in range(steps):
        rows = rng.permutation(20)[:6]
        t = rng.normal(size=6) + 3
        line.replace(torch.tensor(rows), torch.ones(6), torch.tensor(t), torch.tensor(y[rows]))
        seen.update(zip(rows, t, strict=True))
    b, a = np.polyfit(list(seen.values()), y[list(seen)], 1)
    np.testing.assert_allclose(line(torch.tensor([0.0, 1.0], dtype=torch.float64)), [a, a + b], atol=1e-7)


def test_a_line_through_nothing_is_not_a_number():
    line = RunningLine(3)
    assert line(torch.zeros(2)).isnan().all()
    line.replace(torch.tensor([0]), torch.ones(1), torch.tensor([0.5]), torch.tensor([1.0]))
    assert line(torch.zeros(2)).isnan().all()


class Computed(TorchDispatchMode):
    "Sizes of everything that an operation computes anew (views and writes into a buffer are not)."

    def __init__(self, gen):
        super().__init__()
        self.buffers, self.sizes = {b.untyped_storage().data_ptr() for b in gen.buffers()}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.sizes += [t.numel() for t in tensors if t.untyped_storage().data_ptr() not in self.buffers]
        return out


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_a_step_computes_the_same_sizes_whatever_the_number_of_clips(mode):
    sizes = {}
    for n in (500, 50_000):
        torch.manual_seed(0)
        gen = LabelGenerator(torch.randn(n), {"fusion": 8, "text": 4}, mode=mode)
        with Computed(gen) as computed:
            gen.update({"fusion": torch.randn(16, 8), "text": torch.randn(16, 4)}, torch.arange(16), 2)
        sizes[n] = computed.sizes
    assert sizes[500] == sizes[50_000] and max(sizes[500]) < 500


def test_labels_stay_within_the_bound_and_features_keep_no_graph():
    torch.manual_seed(0)
    gen = LabelGenerator(torch.rand(40) * 2 - 1, {"fusion": 3, "text": 2}, bound=1.0)
    for epoch in range(1, 8):
        features = {s: torch.randn(40, d, requires_grad=True) for s, d in gen.dims.items()}
        gen.update(features, torch.arange(40), epoch)
    assert gen.labels["text"].abs().max() <= 1
    assert not any(buffer.requires_grad for buffer in gen.buffers()) and gen.stored.grad_fn is None


def test_labels_given_are_copied_and_upcast():
    given_labels = torch.tensor([1.0, -2.0])
    gen = LabelGenerator(given_labels, {"fusion": 1, "text": 1})
    given_labels[0] = 99
    assert gen.labels["text"].tolist() == [1.0, -2.0]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        assert LabelGenerator(torch.tensor([1, -2]).to(dtype), {"fusion": 1}).y.dtype == torch.float32
    assert LabelGenerator(np.array([1.0, -2.0]), {"fusion": 1}).y.dtype == torch.float64


def test_casting_a_parent_module_leaves_the_sums_exact():
    labels, draw, _ = corpus(8)
    gen = LabelGenerator(torch.tensor(labels), DIMS, mode="robust")
    feed(gen, draw(1), np.arange(60), 1)
    parent = torch.nn.ModuleDict({"generator": gen, "head": torch.nn.Linear(2, 2)})
    before = copy.deepcopy(gen.state_dict())
    parent.to(torch.bfloat16)
    assert parent["head"].weight.dtype == torch.bfloat16
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in gen.state_dict().items())


def test_half_precision_features_are_accepted_and_others_ignored():
    gen = LabelGenerator([1.0, -1.0], {"fusion": 2, "text": 1})
    gen.update(
        {"fusion": torch.ones(2, 2).half(), "text": torch.ones(2, 1).bfloat16(), "vision": torch.ones(9)},
        torch.arange(2),
        1,
    )
    assert gen.stored.dtype == torch.float32 and gen.stored.sum() == 6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LabelGenerator([[1.0, 2.0]], {"fusion": 1}), "one finite number for each clip"),
        (lambda: LabelGenerator([1.0, float("nan")], {"fusion": 1}), "one finite number for each clip"),
        (lambda: LabelGenerator([1.0], {"text": 1}), "'fusion'"),
        (lambda: LabelGenerator([1.0], {"fusion": 1}, mode="ulgm"), "'ulgm'"),
        (lambda: LabelGenerator([1.0], {"fusion": 1}, neutral="drop"), "'drop'"),
    ],
)
def test_constructor_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "features, error",
    [
        ({"fusion": torch.ones(1, 1)}, "'text'"),
        ({"fusion": torch.ones(1, 2), "text": torch.ones(1, 1)}, r"fusion: expected \(1, 1\) features, got \(1, 2\)"),
        ({"fusion": torch.ones(1, 1), "text": torch.ones(2, 1)}, "text: expected"),
    ],
)
def test_update_refuses_and_leaves_the_state_alone(features, error):
    gen = LabelGenerator([1.0, -1.0], {"fusion": 1, "text": 1})
    before = copy.deepcopy(gen.state_dict())
    with pytest.raises(ValueError, match=error):
        gen.update(features, torch.tensor([0]), 2)
    with pytest.raises(IndexError):
        gen.update({s: torch.ones(1, 1) for s in gen.dims}, torch.tensor([2]), 1)
    assert all(torch.equal(before[k], v) for k, v in gen.state_dict().items())


positive = st.floats(1e-6, 1e6)


@given(p=positive, n=positive)
def test_p24_and_p27_inequalities(p, n):
    p, n = (torch.tensor(x, dtype=torch.float64) for x in (p, n))
    delta, back = relative_distance(p, n), relative_distance(n, p)
    assert delta > -1 and delta + back >= -1e-6 * (1 + delta.abs() + back.abs())
    bar = bounded_distance(p, n)
    assert bar.abs() < 1 and torch.isclose(bar, -bounded_distance(n, p), atol=1e-12)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_p27_ridge_difference_and_coordinate(seed):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 3 * torch.randn(*shape, generator=g, dtype=torch.float64)
    delta_s, delta_m, tau, c = draw(50), draw(50), draw(1).abs() + 1e-3, draw(1).abs()
    assert ((delta_s * delta_m / (delta_m**2 + tau**2)).abs() <= delta_s.abs() / (2 * tau) + 1e-9).all()
    F, C = draw(50, 4), draw(2, 4)
    D_p, D_n, D_pn = centre_distances(F, C, [4])
    bar = bounded_distance(D_p, D_n)[0]
    assert (c * (bar[:, None] - bar)).abs().max() <= 2 * c
    t = lambda F: axis_coordinate(*centre_distances(F, C, [4]))[0]
    G = draw(50, 4)
    torch.testing.assert_close(t((F + G) / 2), (t(F) + t(G)) / 2, atol=1e-8, rtol=1e-8)  # affine
    assert ((t(F) - t(G)).abs() <= 2 * (F - G).norm(dim=1) / D_pn[0] + 1e-9).all()  # Lipschitz
    torch.testing.assert_close(t(C), torch.tensor([1.0, -1.0], dtype=torch.float64), atol=1e-9, rtol=0)


def test_weights_follow_the_labels_and_the_floor():
    gen = LabelGenerator(torch.zeros(3, dtype=torch.float64), {"fusion": 1, "text": 1}, floor=0.25)
    gen.y[1] = torch.tensor([0.0, 0.5, -50.0])
    expected = torch.tensor([1.0, 0.25 + 0.75 * np.tanh(0.5), 0.25], dtype=torch.float64)
    torch.testing.assert_close(gen.weights("text", torch.tensor([2, 1, 0])), expected)
    with pytest.raises(KeyError):
        gen.weights("fusion", torch.tensor([0]))
    assert torch.equal(disagreement(torch.tensor([2.0]), torch.tensor([-1.0])), torch.tensor([3.0]).tanh())


def test_what_keeps_a_distance_finite_is_as_large_as_it_says():
    "At a centre the distance to it is 0, and only 1e-8 is left below the line."
    zero, small = torch.tensor([0.0, 1e-8], dtype=torch.double)
    assert relative_distance(zero, small).item() == pytest.approx(1.0, rel=1e-3)
    assert bounded_distance(zero, small).item() == pytest.approx(0.5, rel=1e-3)


def test_a_line_takes_points_below_a_million_and_keeps_the_earlier_one_at_it():
    rows, once = torch.arange(3), torch.ones(3, dtype=torch.double)
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.double)
    first, then = RunningLine(3), torch.tensor([2.0**20 - 1, 2.0**20, -(2.0**20)], dtype=torch.double)
    first.replace(rows, once, torch.tensor([1.0, 2.0, 4.0], dtype=torch.double), y)
    first.replace(rows, once, then, -y)
    assert torch.equal(first.points[1], torch.tensor([2.0**20 - 1, 2.0, 4.0], dtype=torch.double))
    assert torch.equal(first.points[2], torch.tensor([-1.0, 2.0, 3.0], dtype=torch.double))


def test_features_of_what_a_clip_lacks_are_stored_as_zeros():
    there = torch.tensor([True, False, True, True])
    g = torch.Generator().manual_seed(2)
    gen = LabelGenerator(torch.tensor([1.0, -1.0, 2.0, -2.0]), DIMS, present={"text": there})
    gen.update({s: torch.randn(4, d, generator=g) for s, d in DIMS.items()}, torch.arange(4), epoch=1)
    text = gen.stored.split(gen.widths, 1)[list(gen.dims).index("text")]
    assert not text[1].any() and text[there].all() and gen.stored.any(1).all()


def test_one_clip_that_is_not_finite_is_left_out_and_no_column():
    gen = LabelGenerator(torch.tensor([1.0, -1.0, 2.0, -2.0]), {"fusion": 2, "text": 2})
    x = torch.arange(1.0, 9.0).view(4, 2)
    x[1, 0] = torch.nan
    gen.update({"fusion": x, "text": x}, torch.arange(4), epoch=1)
    assert not gen.stored[1].any() and gen.stored[[0, 2, 3]].all()


def test_labels_are_clipped_at_three_unless_told_otherwise():
    "Self-MM's labels lie in [−3, 3]."
    assert LabelGenerator(torch.tensor([1.0, -1.0]), {"fusion": 2, "text": 2}).bound == 3.0
