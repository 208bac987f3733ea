import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulation import Population, simulate
from dr.reporting.cohorts import Cohort
from dr.reporting.judging import judge
from dr.reporting.runs import RunSummary
from dr.scoring.intervals import difference
from dr.scoring.kappa import quadratic_weighted_kappa
from dr.scoring.resampling import kappa_draws, patient_sums


def cohort(*, settings: int = 2, seeds: int = 2, patients: int = 150, worse: float = 1.0) -> Cohort:
    """Simulated runs `s0`, `s1`, ... of `settings` times `seeds` trainings."""
    labels, grades, owners = simulate(
        Population(worse=worse),
        patients=patients,
        seeds=settings * seeds // 2,
        generator=np.random.default_rng(5),
    )
    names = [f"s{number}" for number in range(len(grades))]
    runs = [RunSummary(folder=Path(name), name=name, state="complete") for name in names]
    return Cohort(
        runs=tuple(runs),
        labels=labels,
        patients=owners,
        grades=grades.astype(np.uint8),
        records=len(labels),
    )


def test_two_single_runs_are_judged_as_models_by_the_paired_bootstrap():
    runs = cohort(seeds=1)
    judged = judge(runs, [["s0"], ["s1"]])
    kappas = [quadratic_weighted_kappa(runs.labels, own) for own in runs.grades]
    best, other = int(np.argmax(kappas)), int(np.argmin(kappas))
    assert judged[best].reference
    assert judged[best].versus is None
    draws = kappa_draws(patient_sums(runs.labels, runs.grades, runs.patients))
    expected = difference(
        kappas[other] - kappas[best], draws[:, other] - draws[:, best], patients=150
    )
    assert judged[other].versus == expected
    assert not judged[other].about_settings
    assert math.isnan(judged[other].seed_sd)


def test_settings_with_two_seeds_each_are_judged_as_settings():
    runs = cohort(settings=2, seeds=2)
    judged = judge(runs, [["s0", "s1"], ["s2", "s3"]])
    kappas = [quadratic_weighted_kappa(runs.labels, own) for own in runs.grades]
    assert judged[0].score.value == pytest.approx(np.mean(kappas[:2]))
    assert judged[0].seed_sd == pytest.approx(np.std(kappas[:2], ddof=1))
    assert all(one.about_settings for one in judged.values())
    other = next(one for one in judged.values() if not one.reference)
    assert other.versus is not None
    assert other.versus.low < other.versus.value < other.versus.high


def test_a_single_seed_beside_settings_is_judged_as_a_model_and_never_as_the_best():
    judged = judge(cohort(settings=3, seeds=2), [["s0", "s1"], ["s2", "s3"], ["s4"]])
    assert not judged[2].about_settings
    assert judged[2].may_be_best is None
    assert not judged[2].reference
    assert judged[0].about_settings


def test_one_setting_with_seeds_beside_single_ones_makes_all_models():
    judged = judge(cohort(settings=2, seeds=2), [["s0", "s1"], ["s2"], ["s3"]])
    assert not any(one.about_settings for one in judged.values())
    assert sum(one.reference for one in judged.values()) == 1


def test_a_setting_alone_has_the_interval_of_its_seeds_too():
    runs = cohort(settings=1, seeds=4)
    (alone,) = judge(runs, [["s0", "s1", "s2"]]).values()
    assert alone.about_settings
    (model,) = judge(runs, [["s0"]]).values()
    assert not model.about_settings
    assert alone.score.low < alone.score.value < alone.score.high


def test_a_baseline_is_the_reference_and_p_values_are_corrected_for_the_others():
    runs = cohort(settings=3, seeds=2)
    names = [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]]
    judged = judge(runs, names, baseline="s3")
    assert [one.reference for one in judged.values()] == [False, True, False]
    others = [judged[0], judged[2]]
    smaller, larger = sorted(others, key=lambda one: one.versus.p_value)
    assert smaller.p_adjusted == pytest.approx(min(1, 2 * smaller.versus.p_value))
    assert larger.p_adjusted == pytest.approx(max(smaller.p_adjusted, larger.versus.p_value))


def test_a_clearly_worse_setting_is_below_the_best():
    judged = judge(cohort(patients=2000, worse=2.5), [["s0", "s1"], ["s2", "s3"]])
    assert judged[0].reference
    assert judged[1].may_be_best is False
    assert judged[1].versus.high < 0


def test_settings_without_runs_in_the_cohort_are_left_out():
    assert set(judge(cohort(), [["elsewhere"], ["s0", "s1"], [], ["s2", "s3"]])) == {1, 3}
    assert judge(cohort(), [["elsewhere"]]) == {}
