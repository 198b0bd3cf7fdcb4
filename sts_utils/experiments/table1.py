"""Table 1: other training sets than mathematics."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from sts_utils import results
from sts_utils.config import Profile
from sts_utils.results import Claim, Result
from sts_utils.runs import models, performance, plan, samples
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run, loss_change
from sts_utils.stats import Correlation, Estimate


class Numbers(NamedTuple):
    """A training set's `measures`: r of each metric, and "overlap" at N of estimated and actual
    dims; `loss` on its held-out solutions before and after SFT, nats a token, and its `change`."""

    measures: Mapping[str, Correlation | Estimate]
    loss: tuple[float, float]
    change: Estimate

    @property
    def learnt(self) -> bool:
        """Whether the held-out loss fell for sure; if not, SFT taught nothing to predict from."""
        return self.change.high < 0


def compute(run: Run) -> dict[str, Numbers]:
    """Each training set's numbers."""
    runs = {run.profile.train: run} | {name: run.trained_on(name) for name in run.profile.others}
    numbers = {}
    for name, of in runs.items():
        held_out = performance.held_out(of.profile)
        mean = -held_out.groupby("when").solution_loglik.mean()
        measures = of.correlations() | {"overlap": of.overlap()}
        loss = float(mean["before"]), float(mean["after"])
        numbers[name] = Numbers(measures, loss, loss_change(held_out, of.templates))
    return numbers


def steps(profile: Profile) -> list[Step]:
    """Held-out solutions of each further training set before and after its fine-tuning."""
    found = []
    for name in profile.others:
        run = samples.trained_on(profile, name)
        tuned = plan.training(f"fine-tuning on {name}", models.finetune, run, run.seeds[0])
        for after, args in enumerate([(run,), (run, tuned)]):
            measure = performance.measure_held_out
            found.append(Step("held-out solutions", measure, args, "04_finetune", after))
    return found


def table1(numbers: dict[str, Numbers], run: Run) -> tuple[pd.DataFrame, str]:
    """r and overlap of each training set, and whether it was learnt."""
    rows = []
    for name, of in numbers.items():
        common = {"source": "ours", "model": run.profile.model, "training set": name}
        loss = dict(zip(("loss before", "loss after"), of.loss, strict=True))
        loss["learnt"] = "learnt" if of.learnt else "not learnt"
        for measure, e in {**of.measures, "change of loss": of.change}.items():
            sure = {"reliability": getattr(e, "reliability", None)}
            rows.append(common | {"measure": measure} | results.numbers(e) | sure | loss)
    for r in results.paper("table01_other_training_sets").itertuples():
        common = {"source": "paper", "model": r.model, "training set": r.training_domain}
        rows.append({**common, "measure": r.metric, "value": r.pearson_mean})
        rows.append({**common, "measure": "overlap", "value": r.overlap_top100 / 100})
    p, asked = run.profile, run.profile.others_questions or run.profile.evaluation.questions
    missed = [name for name, of in numbers.items() if not of.learnt]
    said = f" Unlearnt: {', '.join(missed)}." if missed else ""
    return pd.DataFrame(rows), (
        "Table 1. Other training sets: r of each score with the absolute change over domains, and "
        f"overlap of estimated and actual dims at {p.top_n}, with 95% intervals; held-out loss, "
        f"nats a token. The first set has all seeds and {p.sft.examples} examples, the others one "
        f"seed, {p.others_examples} examples and {asked} questions a domain."
        f"{said} The paper's r: 8 domains."
    )


def claims(numbers: dict[str, Numbers], run: Run) -> Iterator[Claim]:
    """With each training set that was learnt, the dims are found and STS_ICL correlates."""
    chance = run.profile.top_n / len(run.train[0].features)
    found = "demonstrations find the dims that SFT moves, whatever the training set"
    correlates = "STS_ICL correlates with the absolute change, whatever the training set"
    for name, of in numbers.items():
        if of.learnt:
            above = of.measures["overlap"] - chance
            yield Claim("table1", found, f"{name}: overlap minus chance", above)
            r = of.measures["sts_icl"]
            yield Claim("table1", correlates, f"{name}: r over all domains", r)


RESULTS = (Result(table1, "Table 1: other training sets", "table"),)
