"""A run's values: each is loaded, or computed, once when it is first asked for, and handed down."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from sts_utils import results, scores, stats
from sts_utils import scores as score
from sts_utils import scores as shift
from sts_utils import stats as correlation
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.runs import features, models, performance, samples
from sts_utils.runs.models import TrainedModel
from sts_utils.scores import ShiftedDims
from sts_utils.stats import Correlation, Estimate, Observations


class Run:
    """What a profile's run measured, by seed and domain, and the statistics that experiments share.

    | value | is |
    |---|---|
    | train, actual | [S seeds] FeatureStats: training questions under demonstrations; after SFT |
    | prose | [S] the same questions under prose as long as the demonstrations |
    | domains | [S] {name: FeatureStats} of each domain's questions |
    | ranked, dims | [S] ShiftedDims: every feature by its shift; D_N |
    | changes | performance after − before, a row a seed, domain, question and measure |
    """

    def __init__(self, profile: Profile, after: Mapping[int, TrainedModel] | None = None):
        self.profile = profile
        self._after = after

    @property
    def setting(self) -> str:
        """What every caption states of the run."""
        return results.setting(self.profile)

    # --- what else was run ---

    def with_sae(self, name: str) -> "Run":
        """The same run read through another SAE, with the same changes."""
        other = Run(models.with_sae(self.profile, name), self.after)
        other.changes = self.changes
        return other

    def trained_on(self, corpus: str) -> "Run":
        """The run with another training set, its first seed alone."""
        return Run(samples.trained_on(self.profile, corpus))

    @cached_property
    def sets(self) -> dict[str, "Run"]:
        """Corpus of domains -> the run on it; the set that can decide, of the more reliable
        change, first."""
        runs, second = {self.profile.domains: self}, samples.second_domains(self.profile)
        if second:
            other = runs[second.domains] = Run(second, self.after)
            other.train, other.ranked, other.dims = self.train, self.ranked, self.dims
        sure = {n: correlation.reliability(r.change_arrays, "absolute") for n, r in runs.items()}
        return {name: runs[name] for name in sorted(runs, key=sure.get, reverse=True)}

    def with_models(self, after: Mapping[int, TrainedModel]) -> "Run":
        """The same run with other fine-tuned models (seed -> model), as by GRPO."""
        return Run(self.profile, after)

    # --- values ---

    @cached_property
    def after(self) -> Mapping[int, TrainedModel]:
        """Seed -> the fine-tuned model."""
        return self._after or performance.after_sft(self.profile)

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The downstream domains, in alphabetical order."""
        return tuple(samples.evaluation_questions(self.profile))

    @cached_property
    def templates(self) -> dict[str, str]:
        """Id of a training question -> its template: these are drawn together."""
        return samples.templates(self.profile)

    @cached_property
    def train(self) -> list[FeatureStats]:
        return [features.extract_train(self.profile, seed) for seed in self.profile.seeds]

    @cached_property
    def domains(self) -> list[dict[str, FeatureStats]]:
        read, seeds = features.extract_domain, self.profile.seeds
        return [{d: read(self.profile, d, s) for d in self.domain_names} for s in seeds]

    @cached_property
    def prose(self) -> list[FeatureStats]:
        return [features.extract_prose(self.profile, seed) for seed in self.profile.seeds]

    @cached_property
    def actual(self) -> list[FeatureStats]:
        after = self.after.items()
        return [features.extract_actual(self.profile, seed, model) for seed, model in after]

    @cached_property
    def ranked(self) -> list[ShiftedDims]:
        return [shift.shifted_dims(of, None, self.profile.definition) for of in self.train]

    @cached_property
    def dims(self) -> list[ShiftedDims]:
        n, definition = self.profile.top_n, self.profile.definition
        return [shift.shifted_dims(of, n, definition) for of in self.train]

    @cached_property
    def changes(self) -> pd.DataFrame:
        return performance.changes(self.profile, self.after)

    @cached_property
    def change_arrays(self) -> list[np.ndarray]:
        """[D] arrays [S, Q]: the change of the profile's measure."""
        measure = self.profile.evaluation.measure
        return performance.change_arrays(self.changes, measure, self.domain_names)

    # --- statistics that several experiments share ---

    @cached_property
    def scores(self) -> pd.DataFrame:
        """DomainScores: a row a metric, seed and domain, with model, SAE and training set."""
        about = {"model": self.profile.model, "sae": self.profile.sae, "train": self.profile.train}
        rows = []
        for metric in score.PAPER_SCORES:
            of_seeds = zip(self.profile.seeds, self.dims, self.domains, strict=True)
            for seed, dims, domains in of_seeds:
                values = self._score(metric, domains, dims)
                for (domain, of), value in zip(domains.items(), values, strict=True):
                    row = {"domain": domain, "metric": metric, "seed": seed, "value": value}
                    rows.append(about | row | {"queries": len(of.n), "tokens": int(of.n.sum())})
        return pd.DataFrame(rows)

    def _score(self, metric: str, domains: dict[str, FeatureStats], dims: ShiftedDims, **how):
        of, definition = list(domains.values()), self.profile.definition
        return scores.over_domains(metric, of, dims, definition=definition, **how)

    def observe(self, score_of) -> Observations:
        """What a correlation of any score with the change is computed from.

        `score_of(s, weights)`: the scores [D] of seed number s, or [G, D] with weights [G, Q] a
        domain, how often each query counts.
        """
        seeds = range(len(self.domains))
        values = np.stack([score_of(s, None) for s in seeds])
        left_out = np.stack([score_of(s, self._without(s)) for s in seeds], 1)
        return Observations(self.domain_names, values, left_out, self.change_arrays)

    def _without(self, s: int) -> list[np.ndarray]:
        """[D] arrays [CUTS × GROUPS, Q]: 0 for seed s's queries that are left out, else 1."""
        asked = [len(of.n) for of in self.domains[s].values()]
        return [correlation.without(q, d) for d, q in enumerate(asked)]

    def observations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Observations]:
        """Metric -> what its correlation with the change is computed from, on D_N or others."""
        chosen = dims or self.dims

        def of(metric):
            return self.observe(
                lambda s, w: self._score(metric, self.domains[s], chosen[s], weights=w)
            )

        return {metric: of(metric) for metric in score.PAPER_SCORES}

    def signed(self) -> Observations:
        """What the correlation of the signed score (ours) is computed from: the cosine on D_N of a
        domain's mean shift and the training set's."""
        towards = [of.mean("dh") for of in self.train]

        def of(s, weights):
            how = {"weights": weights, "towards": towards[s]}
            return self._score("cosine", self.domains[s], self.dims[s], **how)

        return self.observe(of)

    def correlations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Correlation]:
        """Metric -> r over all domains with the absolute change."""
        observed = self.observations(dims).items()
        return {metric: correlation.correlate(seen) for metric, seen in observed}

    def shifts(
        self, side: str, raw: bool = False, draws: int = 200, field: str | None = None
    ) -> np.ndarray:
        """[1 + B, S, F] shifts ("train", "prose", "actual"): as observed, then questions redrawn.

        `field`: the means of another field of FeatureStats in their place, as "h", the activity.
        The same questions are redrawn for every side.
        """
        of = [replace(x, dh2=getattr(x, field)) if field else x for x in getattr(self, side)]
        observed = np.stack([shift.shift(seed, raw=raw) for seed in of])[None]
        return np.concatenate([observed, shift.draws(of, raw, draws, self.templates)])

    def top_share(self, k: int, raw: bool = False) -> Estimate:
        """Share of the total change by training that the k most moved dims hold."""
        moved = self.shifts("actual", raw)
        return held(moved, moved, k)

    def overlap_size(self, size: int) -> int:
        """How many of `size` dims are as large a fraction as N of the SAE's features."""
        return max(1, round(self.profile.top_n / len(self.train[0].features) * size))

    def overlap(self, raw: bool = False) -> Estimate:
        """Overlap at N of the dims that demonstrations find and those that training moves.

        `raw`: of residual dims, at the same fraction of all.
        """
        estimated, actual = self.shifts("train", raw), self.shifts("actual", raw)
        return overlap(estimated, actual, self.overlap_size(estimated.shape[-1]))


# --- of shifts [1 + B, S, F], as observed and redrawn --------------------------------------------


def held(moved: np.ndarray, ranked: np.ndarray, k: int) -> Estimate:
    """Share of the total of `moved` in the k dims with the most of `ranked`."""
    top = np.argpartition(-ranked, k - 1, axis=-1)[..., :k]
    return _mean(np.take_along_axis(moved, top, -1).sum(-1) / moved.sum(-1))


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> Estimate:
    """Share of the top k dims of `a` that are among the top k of `b`."""
    return _mean(overlaps(a, b, np.array([k]))[..., 0])


def overlaps(estimated: np.ndarray, actual: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """[..., K] overlap of the top-k sets of two arrays of shifts [..., F], for every k at once."""
    most = max(ks)

    def ranks(x: np.ndarray) -> np.ndarray:  # of the first `most`; sorting 131,072 takes long
        top = np.sort(np.argpartition(-x, most - 1, axis=-1)[..., :most], axis=-1)
        order = np.argsort(-np.take_along_axis(x, top, -1), axis=-1, kind="stable")
        found = np.full(x.shape, most)
        np.put_along_axis(found, np.take_along_axis(top, order, -1), np.arange(most), -1)
        return found

    # a dim is in both top-k sets when its worse rank is < k
    worst = np.maximum(ranks(estimated), ranks(actual))
    return np.stack([(worst < k).sum(-1) for k in ks], axis=-1) / ks


def _mean(values: np.ndarray) -> Estimate:
    """Over seeds of [1 + B, S]."""
    return Estimate(float(values[0].mean()), stats.over_seeds(values[1:]))


# --- what training taught ------------------------------------------------------------------------


def loss_change(held_out: pd.DataFrame, templates: Mapping[str, str]) -> Estimate:
    """Change of the loss on held-out solutions, nats a token, paired by question and averaged over
    seeds; `held_out` as `performance.held_out` gives it."""
    after = held_out[held_out.when == "after"]
    after = after.pivot(index="seed", columns="id", values="solution_loglik")
    before = held_out[held_out.when == "before"].set_index("id").solution_loglik[after.columns]
    change = before.to_numpy() - after.to_numpy(dtype=float)
    groups = [templates.get(i, i) for i in after.columns]
    return Estimate(float(change.mean()), stats.mean_draws(change, groups=groups))
