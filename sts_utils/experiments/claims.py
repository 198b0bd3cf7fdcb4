"""The paper's claims, each as a statistic with an interval, judged by one rule fixed before looking."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sts_utils import stats
from sts_utils.config import Profile
from sts_utils.experiments import ablation, comparisons, labels, mixtures, overlap, reinforcement, selective
from sts_utils.report.page import verdict
from sts_utils.runs import performance as performances
from sts_utils.runs import units
from sts_utils.stats import Estimate
from sts_utils.store import FIGURES

#: "Layer matters little" is judged by a range of r below this, fixed before looking.
LITTLE = 0.2


class Claim(NamedTuple):
    """A statement of the paper and what decides it: above zero speaks for it, unless `side` is "below"."""

    claim: str
    statistic: str
    estimate: Estimate
    paper: str = ""
    side: str = "above"


def judged(profile: Profile) -> pd.DataFrame:
    """Every claim with its statistic, 95% interval and verdict; a row each, columns as `report` reads them."""
    rows = [
        {
            "figure": figure, "claim": c.claim, "statistic": c.statistic, "value": c.estimate.value,
            "low": c.estimate.low, "high": c.estimate.high, "paper": c.paper,
            "verdict": verdict(c.estimate.low, c.estimate.high, c.side),
        }
        for figure, of in CLAIMS.items() for c in of(profile)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def save(table: pd.DataFrame, profile: Profile) -> Path:
    """Write the verdicts as claims.csv, which the report page reads."""
    path = FIGURES / profile.name / "claims.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    return path


def _fig1a(profile: Profile) -> Iterator[Claim]:
    held = overlap.concentration(profile)["top N"]
    n = profile.top_n
    yield Claim(
        "SFT moves few features", f"share of the change in the top {n}, minus that of a uniform shift",
        held - n / units.sae(profile).cfg.d_sae, "25% in the top 100",
    )  # fmt: skip


def _fig1b(profile: Profile) -> Iterator[Claim]:
    found = ablation.estimates(profile)
    for (which, k), shifted in found.items():
        if which == "shifted":
            yield Claim(
                "zeroing shifted features hurts mathematics more than random ones",
                f"log-likelihood lost, shifted minus random, {k} zeroed", found["random", k] - shifted,
                "falls for shifted, stays for random",
            )  # fmt: skip


def _fig2a(profile: Profile) -> Iterator[Claim]:
    found, n = overlap.by_space(profile), profile.top_n
    yield Claim(
        "demonstrations find the dims that SFT moves", f"overlap at {n} minus chance",
        found["SAE"] - found["SAE chance"].value, "57% at 100",
    )  # fmt: skip
    yield Claim(
        "SAE features show it better than raw dims", "overlap, SAE minus raw, at the same fraction of dims",
        found["SAE"] - found["raw"], "raw far lower",
    )  # fmt: skip


def _fig2b(profile: Profile) -> Iterator[Claim]:
    found = overlap.concentration(profile)
    yield Claim(
        "the change is more concentrated in SAE features than in raw dims", "share of the top 1%, SAE minus raw",
        found["SAE"] - found["raw"], "raw is flatter",
    )  # fmt: skip


def _fig3(profile: Profile) -> Iterator[Claim]:
    theirs = {"sts_act": "0.60 to 0.90", "sts_icl": "0.77 to 0.81"}
    observed = performances.observations(profile)
    for metric, seen in observed.items():
        for selection, words in (("all", "all domains"), ("paper", "the paper's selection by the outcome")):
            yield Claim(
                f"{metric} correlates with the absolute change", f"r over {words}", stats.r(seen, selection),
                theirs[metric] if selection == "paper" else "",
            )  # fmt: skip
    if len(profile.seeds) > 1:
        spread = {metric: stats.r_spread(seen) for metric, seen in observed.items()}
        yield Claim(
            "STS_ICL is steadier than STS_act", "standard deviation of r over seeds, sts_act minus sts_icl",
            spread["sts_act"] - spread["sts_icl"], "0.71–0.90–0.60 against 0.81–0.78–0.77 over models",
        )  # fmt: skip


def _table1(profile: Profile) -> Iterator[Claim]:
    for name, row in comparisons.training_sets(profile).items():
        chance = profile.top_n / units.sae(profile).cfg.d_sae
        yield Claim(
            "demonstrations find the dims that SFT moves, whatever the training set", f"{name}: overlap minus chance",
            row["overlap"] - chance, "57% to 62%",
        )  # fmt: skip
        yield Claim(
            "STS_ICL correlates with the absolute change, whatever the training set", f"{name}: r over all domains",
            row["sts_icl"], "0.71 to 0.78",
        )  # fmt: skip


def _slope(found: dict, at: Callable[[str], float], metric: str) -> Estimate:
    """Slope of r on log2 of what `at` says of each SAE."""
    x = np.log2([at(name) for name in found])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    rows = [row[metric] for row in found.values()]
    draws = np.tensordot(x, np.stack([e.draws for e in rows]), 1)
    return Estimate(float(x @ [e.value for e in rows]), draws)


def _slopes(found: dict, at: Callable[[str], float], what: str, claim: str, paper: str) -> Iterator[Claim]:
    """The claim that r falls with log2 of `what`, for each metric."""
    for metric in ("sts_act", "sts_icl"):
        yield Claim(claim, f"{metric}: slope of r on log2 {what}", _slope(found, at, metric), paper, "below")


def _fig4a(profile: Profile) -> Iterator[Claim]:
    found = comparisons.sweep(profile, profile.sweep.widths)
    at = partial(comparisons.width, profile)
    yield from _slopes(found, at, "width", "a narrower SAE predicts better", "wider is lower")


def _fig4b(profile: Profile) -> Iterator[Claim]:
    found = comparisons.sweep(profile, profile.sweep.layers)
    for metric in ("sts_act", "sts_icl"):
        rows = [row[metric] for row in found.values()]
        spread = Estimate(np.ptp([e.value for e in rows]), np.ptp(np.stack([e.draws for e in rows]), axis=0))
        yield Claim(
            "the layer matters little", f"{metric}: range of r minus {LITTLE}", spread - LITTLE, "stable", "below"
        )


def _table12(profile: Profile) -> Iterator[Claim]:
    found = comparisons.sweep(profile, profile.sweep.sparsities)
    at = partial(comparisons.l0, profile)
    yield from _slopes(found, at, "L0", "a sparser SAE predicts better", "0.78 at 13, 0.65 at 109")


def _fig4d(profile: Profile) -> Iterator[Claim]:
    first, *later = comparisons.rank_ranges(profile).values()
    for metric in ("sts_act", "sts_icl"):
        mean = Estimate(
            float(np.mean([row[metric].value for row in later])), np.mean([row[metric].draws for row in later], axis=0)
        )
        yield Claim(
            "dims of smaller shift predict worse",
            f"{metric}: r of ranks 1 to {profile.top_n} minus the mean of later ranges",
            first[metric] - mean, "falls",
        )  # fmt: skip


def _table5(profile: Profile) -> Iterator[Claim]:
    found = comparisons.predictors(profile)
    theirs = {
        "feature_activations": 0.03,
        "similarity_domain_to_training_set": 0.11,
        "similarity_before_after_sft": 0.61,
    }
    for name, value in theirs.items():
        words = name.replace("_", " ")
        yield Claim(
            f"STS beats {words}", "r of sts_icl minus r of it", found["sts_icl"] - found[name], f"0.79 − {value}"
        )


def _table13(profile: Profile) -> Iterator[Claim]:
    found = comparisons.predictors(profile)
    for name, value in {"probe_raw_activations": 0.03, "probe_sae_activations": 0.08}.items():
        words = name.replace("_", " on ", 1).replace("_", " ")
        yield Claim(
            f"STS beats a {words}", "r of sts_icl minus r of it", found["sts_icl"] - found[name], f"0.79 − {value}"
        )


def _fig5(profile: Profile) -> Iterator[Claim]:
    gains = mixtures.changes(profile)
    most, least = mixtures.affected(profile)
    yield Claim(
        "extra data helps the high-STS domain more",
        f"gain of {most} by its extra data minus gain of {least} by its own",
        (gains["all most"][most] - gains["none"][most]) - (gains["all least"][least] - gains["none"][least]),
        "engineering gains much, law little",
    )  # fmt: skip

    def apart(name):
        gap = gains[name][most] - gains[name][least]
        return Estimate(abs(gap.value), np.abs(gap.draws))

    ends = [apart("all most"), apart("all least")]
    mean = Estimate(np.mean([e.value for e in ends]), np.mean([e.draws for e in ends], axis=0))
    yield Claim(
        "the STS split balances the two domains", "distance between their changes: one-sided mixtures minus STS split",
        mean - apart("STS"), "balanced",
    )  # fmt: skip


def _table10(profile: Profile) -> Iterator[Claim]:
    gains = mixtures.changes(profile)
    yield Claim(
        "mathematics is kept with STS-guided data", "log-likelihood a token after it minus before any training",
        gains["STS"]["mathematics"], "80.1 against 74.7 before and 81.3 without",
    )  # fmt: skip


def _fig6(profile: Profile) -> Iterator[Claim]:
    found = reinforcement.estimates(profile)
    yield Claim(
        "estimated dims overlap less for RL",
        "overlap, SFT minus RL",
        found["overlap SFT"] - found["overlap RL"],
        "lower",
    )
    for metric in ("sts_act", "sts_icl"):
        yield Claim(
            "actual dims restore the correlation for RL", f"{metric}: r with actual minus r with estimated dims",
            found[f"{metric} actual"] - found[f"{metric} estimated"], "low with estimated, high with actual",
        )  # fmt: skip


def _fig7(profile: Profile) -> Iterator[Claim]:
    found, theirs = selective.estimates(profile), ("75.6 against 74.2", "76.9 against 74.0")
    for n, paper in zip(profile.selective.dims, theirs, strict=False):
        yield Claim(
            "tuning estimated dims beats random dims", f"log-likelihood, estimated minus random, {n} dims a layer",
            found["estimated", n] - found["random", n], paper,
        )  # fmt: skip


def _table7(profile: Profile) -> Iterator[Claim]:
    share = labels.shares(profile)["share"]
    for n, e in share.items():
        if n != "all":
            yield Claim(
                "the shifted dims are mathematics",
                f"share labelled so in D_{n} minus base rate",
                e - share["all"],
                "89% to 93%",
            )


def _table8(profile: Profile) -> Iterator[Claim]:
    recall = labels.shares(profile)["recall"]
    yield Claim(
        "mathematics features are found, code features are not", "recall in the top 500, mathematics minus code",
        recall["math"] - recall["code"], "63% against 7%",
    )  # fmt: skip


#: Figure or table -> its claims (the paper's, by the rule of PAPER: a run at another scale is judged by claims).
CLAIMS: dict[str, Callable[[Profile], Iterator[Claim]]] = {
    "fig1a": _fig1a, "fig1b": _fig1b, "fig2a": _fig2a, "fig2b": _fig2b, "fig3": _fig3, "fig4a": _fig4a,
    "fig4b": _fig4b, "table12": _table12, "fig4d": _fig4d, "table13": _table13, "fig5": _fig5, "fig6": _fig6,
    "fig7": _fig7, "table1": _table1, "table5": _table5, "table7": _table7, "table8": _table8, "table10": _table10,
}  # fmt: skip
