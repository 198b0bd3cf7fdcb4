"""What a run measured, as arrays: each value is read, or computed, when it is first asked for."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import product

import numpy as np
import pandas as pd

from sts_utils import evaluate, questions, run, scores, stats
from sts_utils.config import Profile
from sts_utils.corpora import packaged
from sts_utils.features import FeatureStats
from sts_utils.scores import PAPER_SCORES, ShiftedDims
from sts_utils.stats import Correlation, Jackknife, Observations

read = FeatureStats.from_arrays


class Run:
    """What a profile's run measured, by seed and domain, and the statistics that figures share.
    models: {seed: fine-tuned model}, as `run` names it; SFT on the training set if not given.
    train, prose, actual: [S seeds] features of the training questions under demonstrations, under
    prose as long, and after fine-tuning; domains: [S] of each domain's questions, by its name.
    ranked, dims: [S] every feature by its shift; D_N.
    changes: performance after − before, a row a seed, domain, question and measure."""

    def __init__(self, p: Profile, models: Mapping[int, tuple] | None = None, sae: str = ""):
        self.profile, self.seeds, self.sae = p, p.seeds, sae or p.sae
        self.models = models or {seed: (run.finetuned, seed) for seed in p.seeds}

    def with_sae(self, name: str) -> "Run":
        """The same run read through another SAE of the profile, with the same changes."""
        other = Run(self.profile, self.models, name)
        other.changes = self.changes
        return other

    @cached_property
    def train(self) -> list[FeatureStats]:
        return [read(run.train_features(self.profile, s, part=self.sae)) for s in self.seeds]

    @cached_property
    def prose(self) -> list[FeatureStats]:
        p = self.profile
        return [read(run.prose_features(p, seed, part=p.sae)) for seed in self.seeds]

    @cached_property
    def actual(self) -> list[FeatureStats]:
        p = self.profile
        return [read(run.actual_features(p, s, m, part=p.sae)) for s, m in self.models.items()]

    @cached_property
    def domains(self) -> list[dict[str, FeatureStats]]:
        names, features = self.domain_names, partial(run.domain_features, self.profile)
        return [{d: read(features(d, s, part=self.sae)) for d in names} for s in self.seeds]

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(questions.evaluation_questions(self.profile))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """MMLU-Pro's category of each domain that is an MMLU subject; of others themselves."""
        known = packaged.mmlu_domains()
        return tuple(known.get(name.replace(" ", "_"), name) for name in self.domain_names)

    @cached_property
    def ranked(self) -> list[ShiftedDims]:
        return [scores.shifted_dims(seed, None, self.profile.definition) for seed in self.train]

    @cached_property
    def dims(self) -> list[ShiftedDims]:
        p = self.profile
        return [scores.shifted_dims(seed, p.top_n, p.definition) for seed in self.train]

    def shifts(self, side: str, field: str = "dh2") -> np.ndarray:
        """[1 + CUTS × GROUPS, S, F] shifts ("train", "prose", "actual") of all questions, then
        without each part of these, the same for every side. `field` of FeatureStats: another's
        means, as "h", the activity, or "dr2", the shift of raw residual dims."""
        return scores.shifts(getattr(self, side), field, questions.templates(self.profile))

    def overlap(self) -> Jackknife:
        """Overlap at N of the dims that demonstrations find and those that training moves."""
        n, sides = np.array([self.profile.top_n]), (self.shifts("train"), self.shifts("actual"))
        return Jackknife.of(scores.overlaps(*sides, n)[..., 0])

    @cached_property
    def changes(self) -> pd.DataFrame:
        p, frames, long = self.profile, [], (["domain", "id"], evaluate.MEASURES, "measure")
        before = run.performance(p).melt(*long, "before")
        for seed, model in self.models.items():
            after = run.performance(p, model, p.evaluation.asked).melt(*long, "after")
            frames.append(after.merge(before, on=["domain", "id", "measure"]).assign(seed=seed))
        table = pd.concat(frames, ignore_index=True)
        return table.assign(change=table.after - table.before)

    def changes_of(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [S seeds, Q questions] of the change of a measure."""
        table = self.changes[self.changes.measure == measure]
        seeds, wide = table.seed.unique(), {"index": "seed", "columns": "id", "values": "change"}
        of = dict(iter(table.groupby("domain")))
        return [of[domain].pivot(**wide).loc[seeds].to_numpy() for domain in self.domain_names]

    @cached_property
    def change_arrays(self) -> list[np.ndarray]:
        """[D] arrays [S, Q]: the change of the profile's measure."""
        return self.changes_of(self.profile.evaluation.measure)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Held-out solutions' log-likelihood, a row a question and seed; column `when`."""
        frames = [run.held_out_loss(self.profile).assign(when="before", seed=pd.NA)]
        for seed, model in self.models.items():
            frames.append(run.held_out_loss(self.profile, model).assign(when="after", seed=seed))
        return pd.concat(frames, ignore_index=True)

    def loss_change(self) -> Jackknife:
        """Mean change of the loss on held-out solutions, nats a token, paired by question."""
        table, wide = self.held_out, {"index": "seed", "columns": "id", "values": "solution_loglik"}
        after = table[table.when == "after"].pivot(**wide)
        before = table[table.when == "before"].set_index("id").solution_loglik[after.columns]
        templates = questions.templates(self.profile)
        groups = [templates.get(i, i) for i in after.columns]
        return Jackknife.mean(before.to_numpy() - after.to_numpy(float), groups)

    def score(self, metric: str, s: int, dims=None) -> np.ndarray:
        """[D] the score `metric` of scores.over_domains, of seed number s, on D_N or `dims` [S]."""
        towards = self.train[s].mean("dh") if metric == "cosine" else None
        chosen = (dims or self.dims)[s], self.profile.definition
        return scores.over_domains(metric, [*self.domains[s].values()], *chosen, towards=towards)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Columns metric, seed, domain, value: a row a score of a domain."""
        frames = []
        for metric, (s, seed) in product(PAPER_SCORES, enumerate(self.seeds)):
            values = {"domain": self.domain_names, "value": self.score(metric, s)}
            frames.append(pd.DataFrame({"metric": metric, "seed": seed, **values}))
        return pd.concat(frames, ignore_index=True)

    def observe(self, score_of: Callable) -> Observations:
        """What a correlation of any score with the change is of; `score_of(s)`: [D] of seed s."""
        values = np.stack([score_of(s) for s in range(len(self.seeds))])
        return Observations(self.domain_names, self.categories, values, self.change_arrays)

    def observations(self, metrics=PAPER_SCORES, dims=None) -> dict[str, Observations]:
        """Metric -> what its correlation with the change is computed from, on D_N or others."""
        return {m: self.observe(partial(self.score, m, dims=dims)) for m in metrics}

    def correlations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Correlation]:
        """Metric -> r over all domains with the absolute change."""
        return {m: stats.correlate(seen) for m, seen in self.observations(dims=dims).items()}
