"Read-outs: matrices of features, their bases and the ridge behind them, each against NumPy or scikit-learn."

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dmsil import readouts
from dmsil.readouts import additive_readouts, checked_groups, checked_labels, feature_matrix, folds


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_numbers_that_the_page_names():
    assert (readouts.COMPONENTS, readouts.BUMPS, readouts.FOLDS) == (256, 128, 5)


def test_sequences_become_mean_and_deviation():
    x = 3 + normal(1, 20, 6, 2)
    x[4, 3:] = math.nan
    expected = np.concatenate([np.nanmean(x.numpy(), 1), np.nanstd(x.numpy(), 1)], 1)
    listed = [row[~row.isnan().any(1)].numpy() for row in x]
    for given in (x, x.numpy(), listed):
        assert np.allclose(feature_matrix("audio", given, 20), expected)
    assert feature_matrix("age", torch.arange(20.0), 20).tolist() == [[k] for k in range(20)]
    assert feature_matrix("audio", x[:, 0].tolist(), 20).tolist() == x[:, 0].tolist()
    for wrong in (x[:19, 0], [], x[None]):
        with pytest.raises(ValueError, match=r"audio: features of shape .*, expected \(n, d\)"):
            feature_matrix("audio", wrong, 20)


def test_columns_are_standard_where_a_clip_has_the_modality():
    x = 5 + 2 * normal(2, 200, 3)
    x[0, 0], x[7] = 900, math.nan
    x[9, 1] = math.nan
    constant = torch.full((200, 1), 3.0, dtype=torch.double)
    constant[7] = math.nan
    X, there = readouts._standard(torch.cat([x, constant], 1))
    have = np.delete(x.numpy(), 7, 0)
    filled = np.where(np.isnan(have), np.nanmean(have, 0), have) - np.nanmean(have, 0)
    cut = np.clip(filled / np.sqrt((filled**2).mean(0)), -5, 5)
    assert cut[0, 0] == 5 and X.shape == (200, 3) and there.tolist() == [k != 7 for k in range(200)]
    assert np.allclose(X[there], cut - cut.mean(0)) and X[7].tolist() == [0, 0, 0]
    assert np.allclose(readouts._standard(1e-12 * x)[0], X)  # and columns of any scale
    low = torch.cat([-x[:, :1], x[:, 1:]], 1)
    assert np.allclose(readouts._standard(low)[0][:, 0], -X[:, 0])  # cut below as above


def bumps(X, Z):
    "Smooth functions of X around the clips Z, white over these clips but for a millionth."
    k = lambda A, B: np.exp(-((A[:, None] - B[None]) ** 2).sum(-1) / 2)
    return np.linalg.solve(np.linalg.cholesky(k(Z, Z) + 1e-6 * np.eye(len(Z))), k(X, Z).T).T


@pytest.mark.parametrize("n, d", [(150, 2), (30, 1), (150, 9)])
def test_a_basis_is_columns_and_bumps(n, d):
    x = normal(3, n, d)
    linear, smooth = readouts._basis(x, torch.Generator().manual_seed(4))
    X = readouts._standard(x)[0].numpy() / math.sqrt(d)
    assert np.allclose(linear, X)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(4))[: min(128, 32 * d)]
    Phi = bumps(X, X[chosen])
    assert np.allclose(smooth, Phi - Phi.mean(0), atol=1e-5)


@pytest.mark.parametrize("n, d", [(40, 60), (300, 280)])
def test_wide_features_are_read_in_components(n, d):
    x = normal(5, n, d)
    linear, _ = readouts._basis(x, torch.Generator().manual_seed(6))
    X = readouts._standard(x)[0].numpy() / math.sqrt(d)
    U, S, _ = np.linalg.svd(X, full_matrices=False)
    k = min(n - 1, d, 256)
    assert linear.shape == (n, k)
    assert np.allclose(linear @ linear.T, (U[:, :k] * S[:k] ** 2) @ U[:, :k].T, atol=1e-8)


def test_features_that_do_not_vary_have_no_basis():
    assert readouts._basis(torch.ones(30, 2).double(), torch.Generator()) == []
    assert readouts._basis(torch.full((30, 2), math.nan).double(), torch.Generator()) == []
    y = normal(7, 30)
    assert additive_readouts({"a": torch.ones(30, 2)}, y).tolist() == [[0.0]] * 30


def scaled(blocks, penalties):
    "Columns for which one penalty of 1 is what each block's own is for the blocks."
    return np.concatenate([block.numpy() / math.sqrt(p) for block, p in zip(blocks, penalties, strict=True)], 1)


def test_ridges_without_some_folds_are_scikit_learns():
    blocks, y = [normal(8, 100, 3), normal(9, 100, 2)], normal(10, 100)
    fold, penalties = torch.arange(100) % 5, [3.0, 0.4]
    ridge = readouts._Ridge(blocks, y, fold)
    X = scaled(blocks, penalties)

    def theirs(*left_out):
        rows = ~np.isin(fold.numpy(), left_out)
        return Ridge(1.0).fit(X[rows], y.numpy()[rows])

    weights, model = ridge.fit(penalties, (1, 4)), theirs(1, 4)
    spread = np.repeat(np.sqrt(penalties), [3, 2])
    assert np.allclose(weights, [model.intercept_, *model.coef_ / spread])
    others, loss = [k for k in range(5) if k != 2], 0.0
    for k in others:
        rows = fold.numpy() == k
        loss += ((theirs(k, 2).predict(X[rows]) - y.numpy()[rows]) ** 2).sum() - (y.numpy()[rows] ** 2).sum()
    assert ridge.error(penalties, 2) == pytest.approx(loss)


def test_penalties_are_as_good_as_a_grid_finds():
    x, y = [normal(11, 120, 4), normal(12, 120, 30)], normal(13, 120)
    y = y + x[0][:, 0]
    ridge = readouts._Ridge(x, y, torch.arange(120) % 5)
    found = ridge.penalties(0)
    grid = [(ridge.error([10.0**i, 10.0**j], 0), (i, j)) for i in range(-3, 7) for j in range(-3, 7)]
    assert ridge.error(found, 0) <= min(grid)[0] + 0.01 * 120 and found[1] > found[0]


def test_read_outs_do_not_ask_where_labels_lie_and_leave_the_global_seed_alone():
    x, y = {"a": normal(14, 60, 2), "b": normal(15, 60, 3)}, normal(16, 60)
    y = y + x["a"][:, 0]
    here = additive_readouts(x, y)
    assert torch.allclose(additive_readouts(x, 4 * y - 9), here, atol=1e-9)
    assert torch.equal(additive_readouts(x, y, None, 0), here) and not torch.equal(
        additive_readouts(x, y, seed=1), here
    )
    fold, group = folds(list(range(60)), 60, 0)
    assert fold.bincount().tolist() == [12] * 5 and group.tolist() == list(range(60))


def test_what_is_just_enough():
    y = torch.arange(20.0)
    assert checked_labels(y).tolist() == y.tolist() and checked_groups([*"aab", *"c" * 17], 20)[0] == "a"
    for few in (y[:19], y[None]):
        with pytest.raises(ValueError, match="expected one label for each of at least 20 clips"):
            checked_labels(few)
    with pytest.raises(ValueError, match="20 entries and 2 different groups, expected 20 entries and at least 3"):
        checked_groups([*"ab" * 10], 20)
    with pytest.raises(ValueError, match="19 entries"):
        checked_groups(range(19), 20)


def test_numbers_in_tensors_name_groups():
    one = torch.tensor(3)
    assert (
        readouts.named_groups([one, torch.tensor(4), one])
        == [3, 4, 3]
        == readouts.named_groups(torch.tensor([3, 4, 3]))
    )
    with pytest.raises(ValueError, match="in row 1, expected one name or number"):
        readouts.named_groups([one, torch.tensor([4])])
