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
        self.profile, self.sae = p, sae or p.sae
        self.models = models or {seed: (run.finetuned, seed) for seed in p.seeds}

    def with_sae(self, name: str) -> "Run":
        """The same run read through another SAE of the profile, with the same changes."""
        other = Run(self.profile, self.models, name)
        other.changes = self.changes
        return other

    @cached_property
    def train(self) -> list[FeatureStats]:
        p = self.profile
        return [read(run.train_features(p, seed, part=self.sae)) for seed in p.seeds]

    @cached_property
    def prose(self) -> list[FeatureStats]:
        p = self.profile
        return [read(run.prose_features(p, seed, part=p.sae)) for seed in p.seeds]

    @cached_property
    def actual(self) -> list[FeatureStats]:
        p, models = self.profile, self.models.items()
        return [read(run.actual_features(p, seed, model, part=p.sae)) for seed, model in models]

    @cached_property
    def domains(self) -> list[dict[str, FeatureStats]]:
        p, names, features = self.profile, self.domain_names, run.domain_features
        return [{d: read(features(p, d, s, part=self.sae)) for d in names} for s in p.seeds]

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(questions.evaluation_questions(self.profile))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """MMLU-Pro's category of each domain that is a subject; of others themselves."""
        return tuple(map(packaged.category, self.domain_names))

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
        p, frames = self.profile, []
        before, key = run.performance(p), ["domain", "id"]
        for seed, model in self.models.items():
            after = run.performance(p, model, p.evaluation.asked)
            both = after.merge(before, on=key, suffixes=("_after", "_before"))
            for name in evaluate.MEASURES:
                frame = both[key].assign(seed=seed, measure=name)
                frame["before"], frame["after"] = both[f"{name}_before"], both[f"{name}_after"]
                frames.append(frame.assign(change=frame.after - frame.before))
        return pd.concat(frames, ignore_index=True)

    def changes_of(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [S seeds, Q questions] of the change of a measure."""
        table = self.changes[self.changes.measure == measure]
        seeds, rows = table.seed.unique(), table.groupby("domain")
        wide = {"index": "seed", "columns": "id", "values": "change"}
        tables = (rows.get_group(domain).pivot(**wide) for domain in self.domain_names)
        return [values.loc[seeds].to_numpy() for values in tables]

    @cached_property
    def change_arrays(self) -> list[np.ndarray]:
        """[D] arrays [S, Q]: the change of the profile's measure."""
        return self.changes_of(self.profile.evaluation.measure)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Held-out solutions' log-likelihood, a row a question and seed; column `when`."""
        frames = [run.held_out_loss(self.profile).assign(when="before", seed=pd.NA)]
        for seed, model in self.models.items():
            after = run.held_out_loss(self.profile, model)
            frames.append(after.assign(when="after", seed=seed))
        return pd.concat(frames, ignore_index=True)

    def loss_change(self) -> Jackknife:
        """Change of the loss on held-out solutions, nats a token, paired by question and averaged
        over seeds."""
        table, wide = self.held_out, {"index": "seed", "columns": "id", "values": "solution_loglik"}
        after = table[table.when == "after"].pivot(**wide)
        before = table[table.when == "before"].set_index("id").solution_loglik[after.columns]
        change, templates = (
            before.to_numpy() - after.to_numpy(float),
            questions.templates(self.profile),
        )
        groups = [templates.get(i, i) for i in after.columns]
        return Jackknife.mean(change, groups)

    def score(self, metric: str, s: int, dims=None) -> np.ndarray:
        """[D] a score of every domain, of seed number s, on D_N or other `dims` [S]. "cosine" is
        the signed score (ours) of a domain's mean shift."""
        towards = self.train[s].mean("dh") if metric == "cosine" else None
        how = {"definition": self.profile.definition, "towards": towards}
        domains = list(self.domains[s].values())
        return scores.over_domains(metric, domains, (dims or self.dims)[s], **how)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Columns metric, seed, domain, value: a row a score of a domain."""
        frames = []
        for metric, (s, seed) in product(PAPER_SCORES, enumerate(self.profile.seeds)):
            values = {"domain": self.domain_names, "value": self.score(metric, s)}
            frames.append(pd.DataFrame({"metric": metric, "seed": seed, **values}))
        return pd.concat(frames, ignore_index=True)

    def observe(self, score_of: Callable) -> Observations:
        """What a correlation of any score with the change is computed from. `score_of(s)`: [D] of
        seed number s."""
        values = np.stack([score_of(s) for s in range(len(self.profile.seeds))])
        return Observations(self.domain_names, self.categories, values, self.change_arrays)

    def observations(self, metrics=PAPER_SCORES, dims=None) -> dict[str, Observations]:
        """Metric -> what its correlation with the change is computed from, on D_N or others."""
        return {m: self.observe(partial(self.score, m, dims=dims)) for m in metrics}

    def correlations(self, dims: Sequence[ShiftedDims] | None = None) -> dict[str, Correlation]:
        """Metric -> r over all domains with the absolute change."""
        return {m: stats.correlate(seen) for m, seen in self.observations(dims=dims).items()}
