"""Whether demonstrations find the dims that training moves, and how few they are (Fig 1a, 2a, 2b, Table 1)."""

from collections.abc import Mapping
from functools import cache

import numpy as np

from sts_utils import stats
from sts_utils.config import Profile
from sts_utils.method import shift
from sts_utils.runs import units
from sts_utils.runs.units import Trained
from sts_utils.stats import Estimate


def at(estimated: np.ndarray, actual: np.ndarray, k: int) -> Estimate:
    """Overlap of the top-k sets of shifts [1 + B, S, F], the first row the observed ones, mean over seeds."""
    found = shift.overlaps(estimated, actual, np.array([k]))[..., 0]
    return Estimate(float(found[0].mean()), stats.over_seeds(found[1:]))


@cache
def concentration(profile: Profile) -> dict[str, Estimate]:
    """Share of SFT's change that the top N features hold, and the top 1% of SAE and of raw dims."""
    actual = [units.actual_stats(profile, seed) for seed in profile.seeds]

    def held(raw, k):
        moved = np.sort(observed_and_drawn(actual, raw), axis=-1)[..., ::-1]
        k = k or max(1, round(0.01 * moved.shape[-1]))
        share = moved[..., :k].sum(-1) / moved.sum(-1)
        return Estimate(float(share[0].mean()), stats.over_seeds(share[1:]))

    return {"top N": held(False, profile.top_n), "SAE": held(False, None), "raw": held(True, None)}


@cache
def by_space(profile: Profile) -> dict[str, Estimate]:
    """Overlap of estimated and actual dims: of SAE features at N, and of raw dims at the same fraction."""
    share = profile.top_n / len(units.train_stats(profile, profile.seeds[0]).features)
    chance = Estimate(share, np.array([share]))
    found = {"SAE": of_dims(profile), "raw": of_dims(profile, raw=True)}
    return found | {"SAE chance": chance, "raw chance": chance}


def of_dims(profile: Profile, after: Mapping[int, Trained] | None = None, raw: bool = False) -> Estimate:
    """Overlap at N of the dims that demonstrations find and those that training moves; `raw`: of residual
    dims, at the same fraction."""
    estimated = [units.train_stats(profile, seed) for seed in profile.seeds]
    actual = [units.actual_stats(profile, seed, after and after[seed]) for seed in profile.seeds]
    drawn = [observed_and_drawn(side, raw) for side in (estimated, actual)]
    share = profile.top_n / len(estimated[0].features)
    return at(*drawn, max(1, round(share * drawn[0].shape[-1])))


def observed_and_drawn(features, raw: bool = False, draws: int = 200) -> np.ndarray:
    """[1 + B, S, F] shifts: as observed, then with questions drawn again."""
    observed = np.stack([shift.shift(x, raw=raw) for x in features])[None]
    return np.concatenate([observed, shift.draws(features, raw, draws)])
