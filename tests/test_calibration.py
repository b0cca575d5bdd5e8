"tools/calibration.py adds draws to those that its file has: as if all had been counted at once."

import calibration
import pytest
from scipy.stats import binomtest


@pytest.mark.parametrize(
    "name", ["1 + 1, n = 60", "two modalities that know as much, n = 300", "8 + 8, n = 300, on held-out clips"]
)
def test_draws_are_added_as_if_counted_at_once(name, monkeypatch):
    monkeypatch.setattr(calibration, "PERMUTATIONS", 40)
    draws = calibration.some(name, 0, 7)
    parts = [calibration.summary(name, some) for some in (draws[:3], draws[3:5], draws[5:])]
    added, whole = calibration.together(calibration.together(*parts[:2]), parts[2]), calibration.summary(name, draws)

    def same(a, b):
        assert a == pytest.approx(b) if not isinstance(a, dict) else a.keys() == b.keys()
        if isinstance(a, dict):
            for key in a:
                same(a[key], b[key])

    assert added["draws"] == 7
    same(added, whole)


def test_ends_of_a_rate():
    ends = binomtest(9, 400).proportion_ci(method="exact")
    assert calibration.ends(0.0225, 400) == pytest.approx([ends.low, ends.high])
    assert calibration.ends(0.0, 400)[0] == 0
    assert calibration.ends(0.0, 400)[1] == pytest.approx(1 - 0.025 ** (1 / 400))
