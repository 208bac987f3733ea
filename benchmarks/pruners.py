"""What each pruner of dr.search saves and costs, on simulated fold scores.

    python -m benchmarks.pruners

A search draws 20 settings. A setting's quality is normal with sd 0.03; each of its 5 folds scores
that quality plus normal noise, by which retraining alone moves a fold. Nothing is trained.
"""

import argparse

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from dr.compose import compose
from dr.config import SearchConfig
from dr.searching.studies import make_pruner

FOLDS = 5
SPREAD = 0.03


def simulate(config: SearchConfig, *, noise: float, seed: int) -> tuple[int, bool, float]:
    """Folds trained, whether the best setting was dropped, and its lead over the one picked."""
    random = np.random.default_rng(seed)
    quality = random.normal(0, SPREAD, config.trials)
    scores = quality[:, None] + random.normal(0, noise, (config.trials, FOLDS))
    study = optuna.create_study(
        direction="maximize", sampler=RandomSampler(seed=seed), pruner=make_pruner(config)
    )
    trained = [_train(study, row) for row in scores]
    states = [trial.state for trial in study.trials]
    best = int(quality.argmax())
    chosen = study.best_trial.number
    return sum(trained), states[best] == TrialState.PRUNED, float(quality[best] - quality[chosen])


def _train(study: optuna.Study, scores: np.ndarray) -> int:
    trial = study.ask()
    for folds in range(1, FOLDS + 1):
        trial.report(float(scores[:folds].mean()), step=folds)
        if folds < FOLDS and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return folds
    study.tell(trial, float(scores.mean()))
    return FOLDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=500)
    searches = parser.parse_args().searches
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("noise  pruner      folds trained  best dropped  quality lost")
    for noise in (0.01, 0.025, 0.05):
        for pruner in ("none", "percentile", "median", "hyperband"):
            config = compose("search", SearchConfig, [f"pruner={pruner}"])
            found = [simulate(config, noise=noise, seed=seed) for seed in range(searches)]
            folds, dropped, lost = np.mean(np.array(found, dtype=float), axis=0)
            share = folds / (config.trials * FOLDS)
            print(f"{noise:<6} {pruner:<11} {share:>12.0%} {dropped:>13.1%} {lost:>13.4f}")


if __name__ == "__main__":
    main()
