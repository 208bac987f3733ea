import math

import numpy as np
import pytest
from scipy import stats

from dr.scoring.many import holm, not_told_from_best
from dr.scoring.settings import SettingScores, seed_noise


def test_holm_is_that_of_its_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_undefined_p_values_do_not_count():
    found = holm([0.02, math.nan, 0.03])
    assert found[0] == pytest.approx(0.04)
    assert math.isnan(found[1])


def models(means: list[float], *, error: float = 0.01, seed: int = 0) -> list[SettingScores]:
    random = np.random.default_rng(seed)
    shared = random.normal(0, 0.03, (2000, 1))
    draws = np.array(means) + shared + random.normal(0, error, (2000, len(means)))
    return [
        SettingScores(values=np.array([mean]), draws=draws[:, [place]])
        for place, mean in enumerate(means)
    ]


def test_only_those_near_the_best_are_kept_though_all_share_noise():
    kept = not_told_from_best(models([0.70, 0.695, 0.60]), None)
    assert kept.tolist() == [True, True, False]


def test_of_two_models_it_is_the_one_sided_test_of_their_difference():
    for lead, expected in ((1.5, True), (1.8, False)):
        both = models([0.7 + lead * 0.01 * math.sqrt(2), 0.7])
        assert not_told_from_best(both, None).tolist() == [True, expected]


def test_equal_models_are_all_kept_as_the_best_one_is_a_model_too():
    same = models([0.6])[0]
    assert not_told_from_best([same, same, same], None).all()
    assert not_told_from_best([same], None).all()


def test_the_best_setting_is_kept_in_95_of_100_experiments():
    random = np.random.default_rng(7)
    truth, error, luck = np.array([0.50, 0.50, 0.50, 0.48]), 0.006, 0.008
    found = []
    for _ in range(400):
        shared = random.normal(0, 0.02)
        own = random.normal(0, error, 4)
        values = truth + shared + own + random.normal(0, luck, (2, 4))
        noise = random.normal(0, 0.02, (500, 1)) + random.normal(0, error, (500, 4))
        settings = [
            SettingScores(
                values=values[:, place],
                draws=np.stack([values[seed, place] + noise[:, place] for seed in (0, 1)], axis=1),
            )
            for place in range(4)
        ]
        found.append(not_told_from_best(settings, seed_noise(settings))[0])
    assert sum(found) >= stats.binom.ppf(0.001, 400, 0.95)


def test_beyond_a_hundred_one_limit_serves_for_all_and_keeps_no_fewer(
    monkeypatch: pytest.MonkeyPatch,
):
    means = list(np.random.default_rng(3).normal(0.6, 0.02, 130))
    many = not_told_from_best(models(means), None)
    monkeypatch.setattr("dr.scoring.many._MOST_LIMITS", 1000)
    exact = not_told_from_best(models(means), None)
    assert exact.sum() < 130
    assert (many | ~exact).all()
