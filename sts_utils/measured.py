"""What a run measured, as arrays: each value is read, or computed, when it is first asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from sts_utils import evaluate, questions, run, scores, stats
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.scores import PAPER_SCORES, ShiftedDims
from sts_utils.stats import Correlation, Estimate, Observations

read = FeatureStats.from_arrays


class Run:
    """What a profile's run measured, by seed and domain, and the statistics that figures share.

    | value | is |
    |---|---|
    | models | {seed: fine-tuned model}, as `run` names it; SFT on the training set if not given |
    | train, actual | [S seeds] FeatureStats: training questions under demonstrations; after SFT |
    | prose | [S] the same questions under prose as long as the demonstrations |
    | domains | [S] {name: FeatureStats} of each domain's questions |
    | ranked, dims | [S] ShiftedDims: every feature by its shift; D_N |
    | changes | performance after − before, a row a seed, domain, question and measure |
    """

    def __init__(self, p: Profile, models: Mapping[int, tuple] | None = None, sae: str = ""):
        self.profile, self.sae = p, sae or p.sae
        self.models = models or {seed: (run.finetuned, seed) for seed in p.seeds}

    # --- what else was run ---

    def with_sae(self, name: str) -> "Run":
        """The same run read through another SAE of the profile, with the same changes."""
        other = Run(self.profile, self.models, name)
        other.changes = self.changes
        return other

    def trained_on(self, corpus: str) -> "Run":
        """The run with another training set, its first seed alone."""
        return Run(questions.trained_on(self.profile, corpus))

    @cached_property
    def sets_as_named(self) -> dict[str, "Run"]:
        """Corpus of domains -> the run on it, in the profile's order: no outcome is read."""
        runs, second = {self.profile.domains: self}, questions.second_domains(self.profile)
        if second:
            other = runs[second.domains] = Run(second, self.models)
            other.train, other.ranked, other.dims = self.train, self.ranked, self.dims
        return runs

    @cached_property
    def sets(self) -> dict[str, "Run"]:
        """The same; the set that can decide, of the more reliable change, first."""
        runs = self.sets_as_named
        sure = {name: stats.reliability(r.change_arrays, "absolute") for name, r in runs.items()}
        return {name: runs[name] for name in sorted(runs, key=sure.get, reverse=True)}

    # --- values ---

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The downstream domains, in alphabetical order."""
        return tuple(questions.evaluation_questions(self.profile))

    @cached_property
    def templates(self) -> dict[str, str]:
        """Id of a training question -> its template: these are drawn together."""
        return questions.templates(self.profile)

    @cached_property
    def train(self) -> list[FeatureStats]:
        own = self.profile.shown == "rollouts"
        features = run.own_answer_features if own else run.train_features
        return [read(features(self.profile, s, part=self.sae)) for s in self.profile.seeds]

    @cached_property
    def domains(self) -> list[dict[str, FeatureStats]]:
        return [
            {
                d: read(run.domain_features(self.profile, d, s, part=self.sae))
                for d in self.domain_names
            }
            for s in self.profile.seeds
        ]

    @cached_property
    def prose(self) -> list[FeatureStats]:
        p = self.profile
        return [read(run.prose_features(p, seed, part=p.sae)) for seed in p.seeds]

    @cached_property
    def actual(self) -> list[FeatureStats]:
        p, models = self.profile, self.models.items()
        return [read(run.actual_features(p, seed, model, part=p.sae)) for seed, model in models]

    @cached_property
    def ranked(self) -> list[ShiftedDims]:
        return [scores.shifted_dims(of, None, self.profile.definition) for of in self.train]

    @cached_property
    def dims(self) -> list[ShiftedDims]:
        n, definition = self.profile.top_n, self.profile.definition
        return [scores.shifted_dims(of, n, definition) for of in self.train]

    @cached_property
    def changes(self) -> pd.DataFrame:
        before, frames = run.performance(self.profile), []
        for seed, model in self.models.items():
            both = run.performance(self.profile, model, self.profile.evaluation.asked)
            both = both.merge(before, on=["domain", "id"], suffixes=("_after", "_before"))
            for name in evaluate.MEASURES:
                frame = both[["domain", "id"]].assign(seed=seed, measure=name)
                frame["before"], frame["after"] = both[f"{name}_before"], both[f"{name}_after"]
                frames.append(frame.assign(change=frame.after - frame.before))
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def change_arrays(self) -> list[np.ndarray]:
        """[D] arrays [S, Q]: the change of the profile's measure."""
        return self.changes_of(self.profile.evaluation.measure)

    def changes_of(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [S seeds, Q questions] of the change of a measure."""
        table = self.changes[self.changes.measure == measure]
        seeds = list(dict.fromkeys(table.seed))
        rows = dict(list(table.groupby("domain")))
        wide = [
            rows[d].pivot(index="seed", columns="id", values="change") for d in self.domain_names
        ]
        return [values.loc[seeds].to_numpy() for values in wide]

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Held-out solutions' log-likelihood, a row a question and seed; column `when`."""
        frames = [run.held_out_loss(self.profile).assign(when="before", seed=pd.NA)]
        for seed, model in self.models.items():
            after = run.held_out_loss(self.profile, model)
            frames.append(after.assign(when="after", seed=seed))
        return pd.concat(frames, ignore_index=True)

    # --- statistics that several experiments share ---

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Columns metric, seed, domain, value, queries, tokens: a row a score of a domain."""
        rows = []
        for metric in PAPER_SCORES:
            for s, seed in enumerate(self.profile.seeds):
                values = self.score(metric, s, self.dims)
                for (domain, of), value in zip(self.domains[s].items(), values, strict=True):
                    size = {"queries": len(of.n), "tokens": int(of.n.sum())}
                    rows.append(
                        {"metric": metric, "seed": seed, "domain": domain, "value": value} | size
                    )
        return pd.DataFrame(rows)

    def score(self, metric: str, s: int, dims: Sequence[ShiftedDims], weights=None) -> np.ndarray:
        """[D] a score of every domain, of seed number s; [G, D] with `weights` [G, Q] a domain."""
        domains, towards = list(self.domains[s].values()), None
        if metric == "cosine":
            towards = self.train[s].mean("dh")
        told = {"definition": self.profile.definition, "weights": weights, "towards": towards}
        return scores.over_domains(metric, domains, dims[s], **told)

    def observe(self, score_of: Callable) -> Observations:
        """What a correlation of any score with the change is computed from.

        `score_of(s, weights)`: the scores [D] of seed number s, or [G, D] with weights [G, Q] a
        domain, how often each query counts.
        """
        seeds = range(len(self.domains))
        values = np.stack([score_of(s, None) for s in seeds])
        left_out = np.stack([score_of(s, list(self._without(s))) for s in seeds], 1)
        return Observations(self.domain_names, values, left_out, self.change_arrays)

    def _without(self, s: int) -> Iterator[np.ndarray]:
        """[D] arrays [CUTS × GROUPS, Q]: 0 for seed s's queries that are left out, else 1."""
        for d, of in enumerate(self.domains[s].values()):
            yield stats.without(len(of.n), d)

    def observations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Observations]:
        """Metric -> what its correlation with the change is computed from, on D_N or others."""
        return {metric: self.observation(metric, dims) for metric in PAPER_SCORES}

    def observation(self, metric: str, dims: Sequence[ShiftedDims] | None = None) -> Observations:
        """The same of one metric; "cosine" is the signed score (ours) of a domain's mean shift."""
        return self.observe(lambda s, weights: self.score(metric, s, dims or self.dims, weights))

    def correlations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Correlation]:
        """Metric -> r over all domains with the absolute change."""
        observed = self.observations(dims).items()
        return {metric: stats.correlate(seen) for metric, seen in observed}

    def shifts(self, side: str, field: str = "dh2", draws: int = 200) -> np.ndarray:
        """[1 + B, S, F] shifts ("train", "prose", "actual"): as observed, then questions redrawn.

        `field`: the means of another field of FeatureStats, as "h", the activity, or "dr2", the
        shift of raw residual dims. The same questions are redrawn for every side.
        """
        of = getattr(self, side)
        observed = np.stack([seed.mean(field) for seed in of])[None]
        return np.concatenate([observed, scores.shift_draws(of, field, draws, self.templates)])

    def overlap_size(self, size: int) -> int:
        """How many of `size` dims are as large a fraction as N of the SAE's features."""
        return max(1, round(self.profile.top_n / len(self.train[0].features) * size))

    def overlap(self) -> Estimate:
        """Overlap at N of the dims that demonstrations find and those that training moves."""
        return overlap(self.shifts("train"), self.shifts("actual"), self.profile.top_n)


# --- of shifts [1 + B, S, F], as observed and redrawn --------------------------------------------


def share_held(moved: np.ndarray, ranked: np.ndarray, k: int) -> Estimate:
    """Share of the total of `moved` in the k dims with the most of `ranked`."""
    top = np.argpartition(-ranked, k - 1, axis=-1)[..., :k]
    return stats.over_seeds_of(np.take_along_axis(moved, top, -1).sum(-1) / moved.sum(-1))


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> Estimate:
    """Share of the top k dims of `a` that are among the top k of `b`."""
    return stats.over_seeds_of(scores.overlaps(a, b, np.array([k]))[..., 0])


def loss_change(held_out: pd.DataFrame, templates: Mapping[str, str]) -> Estimate:
    """Change of the loss on held-out solutions, nats a token, paired by question and averaged over
    seeds; `held_out` as `Run.held_out` gives it."""
    after = held_out[held_out.when == "after"]
    after = after.pivot(index="seed", columns="id", values="solution_loglik")
    before = held_out[held_out.when == "before"].set_index("id").solution_loglik[after.columns]
    change = before.to_numpy() - after.to_numpy(dtype=float)
    groups = [templates.get(i, i) for i in after.columns]
    return Estimate(float(change.mean()), stats.mean_draws(change, groups=groups))
