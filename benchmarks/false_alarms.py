"""How often the comparison of two equal settings cries wolf, and how often an interval misses.

    python -m benchmarks.false_alarms [--pairs 4000] [--patients 100 1200 17500]

Simulated pairs of settings (`benchmarks.simulation`). `models`: one training of each, equal as
models; the statement is about these two. `settings`: two seeds of each, the statement is about
settings. `different`: settings that do differ; the share of intervals that miss the true
difference. Every row is to be at 5%; beside it stand the bounds that a true 5% keeps in 99 of 100
repetitions of the simulation. The last two columns are what other ways give on the same data: a
bootstrap over patients alone, and one that also draws the two seeds with replacement.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.simulation import Population, simulate
from dr.scoring.intervals import Difference, difference
from dr.scoring.resampling import kappa_draws, kappa_of_sums, patient_sums
from dr.scoring.settings import SettingScores, compare_settings, seed_noise

LUCKLESS = Population(luck=0.0)
SAME = Population()
ALIKE = Population(setting=0.3)
DIFFERENT = Population(setting=0.3, worse=1.15)
_TOGETHER = 40
"""Simulated pairs that share their resamples of patients."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Scores of two settings `[2, seeds]`, their draws `[draws, 2, seeds]`, and the patients."""

    values: Values
    draws: Values
    patients: int

    def by_models(self) -> Difference:
        """The difference of the first seeds, as of two trained models."""
        draws = self.draws[:, 0, 0] - self.draws[:, 1, 0]
        return difference(self.values[0, 0] - self.values[1, 0], draws, patients=self.patients)

    def by_settings(self) -> Difference:
        """The difference of the settings."""
        one, other = (
            SettingScores(values=self.values[place], draws=self.draws[:, place])
            for place in range(2)
        )
        noise = seed_noise([one, other])
        assert noise is not None
        return compare_settings(one, other, noise)

    def by_patients_alone(self) -> Difference:
        """The difference of the means, as if seeds were no source of noise."""
        draws = self.draws.mean(axis=2)
        value = self.values[0].mean() - self.values[1].mean()
        return difference(float(value), draws[:, 0] - draws[:, 1], patients=self.patients)

    def by_drawn_seeds(self, generator: np.random.Generator) -> Difference:
        """The difference of the means, with seeds drawn with replacement beside patients."""
        draws, _, seeds = self.draws.shape
        chosen = generator.integers(seeds, size=(draws, 2, seeds))
        means = np.take_along_axis(self.draws, chosen, axis=2).mean(axis=2)
        value = self.values[0].mean() - self.values[1].mean()
        return difference(float(value), means[:, 0] - means[:, 1], patients=self.patients)


def pairs(
    population: Population, *, count: int, patients: int, seeds: int, draws: int, seed: int
) -> Iterator[Pair]:
    """Simulated pairs, some at a time with the same resamples of patients."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, _TOGETHER):
        some = min(_TOGETHER, count - start)
        parts = [
            patient_sums(*simulate(population, patients=patients, seeds=seeds, generator=generator))
            for _ in range(some)
        ]
        sums = np.concatenate(parts, axis=1)
        drawn = kappa_draws(sums, draws=draws, seed=seed + start)
        values = kappa_of_sums(sums.sum(axis=0, dtype=np.float64)).reshape(some, 2, seeds)
        for own, its in zip(
            values, np.moveaxis(drawn.reshape(-1, some, 2, seeds), 1, 0), strict=True
        ):
            yield Pair(values=own, draws=its, patients=patients)


def true_difference(population: Population, *, seeds: int = 400, patients: int = 5000) -> float:
    """The difference of expected scores, from many seeds and patients of a simulation."""
    generator = np.random.default_rng(99)
    found = []
    for _ in range(seeds):
        drawn = simulate(population, patients=patients, seeds=1, generator=generator)
        one, other = kappa_of_sums(patient_sums(*drawn).sum(axis=0, dtype=np.float64))
        found.append(one - other)
    return float(np.mean(found))


def misses(found: list[Difference], truth: float = 0.0) -> float:
    """The share of intervals that don't hold the truth."""
    return float(np.mean([not one.low <= truth <= one.high for one in found]))


def bounds(pairs: int, *, level: float = 0.99) -> tuple[float, float]:
    """Between which a share of 5% lies in `level` of the repetitions."""
    low, high = stats.binom.interval(level, pairs, 0.05)
    return low / pairs, high / pairs


def measure(
    patients: int, *, count: int, draws: int, seed: int = 0
) -> list[tuple[str, list[float]]]:
    """Rows of shares: of the way that `dr` takes, and of the two others where they apply."""
    given = {"count": count, "patients": patients, "draws": draws, "seed": seed}
    models = [one.by_models() for one in pairs(LUCKLESS, seeds=1, **given)]
    rows = [("models", [misses(models)])]
    generator = np.random.default_rng(seed)
    for name, population in (("settings", SAME), ("settings, alike", ALIKE)):
        found = list(pairs(population, seeds=2, **given))
        shares = [misses([one.by_settings() for one in found])]
        shares += [misses([one.by_patients_alone() for one in found])]
        shares += [misses([one.by_drawn_seeds(generator) for one in found])]
        rows.append((name, shares))
    truth = true_difference(DIFFERENT)
    found = pairs(DIFFERENT, seeds=2, **given)
    rows.append(
        (f"different by {truth:.3f}", [misses([one.by_settings() for one in found], truth)])
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 1200, 17500])
    arguments = parser.parse_args()
    low, high = bounds(arguments.pairs)
    print(f"{arguments.pairs} pairs a row; a true 5% lies in {low:.1%} to {high:.1%}\n")
    print("| patients | pairs | dr | patients alone | seeds drawn too |\n|---|---|---|---|---|")
    for patients in arguments.patients:
        for name, shares in measure(patients, count=arguments.pairs, draws=arguments.draws):
            cells = [f"{share:.1%}" for share in shares] + [""] * (3 - len(shares))
            print(f"| {patients} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
