"""One function per table of the paper, ours beside the paper's numbers (which lie in data/paper/)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sts_utils import stats
from sts_utils.config import Profile
from sts_utils.experiments.figures import MEASURE_NAMES, about, paper
from sts_utils.stats import Estimate
from sts_utils.store import FIGURES


def save(table: pd.DataFrame, name: str, caption: str, profile: Profile) -> list[Path]:
    """Write a table as CSV, Markdown and LaTeX, its caption as text too, into figures/<profile>/."""
    folder = FIGURES / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex", "txt")]
    table.to_csv(paths[0], index=False, float_format="%.6g")
    paths[1].write_text(f"{caption}\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n", encoding="utf-8")
    latex = table.style.hide(axis="index").format(precision=3, na_rep="").format_index(escape="latex", axis=1)
    text = latex.to_latex(caption=_latex(caption), label=f"tab:{name}", hrules=True)
    paths[2].write_text(text, encoding="utf-8")
    paths[3].write_text(caption + "\n", encoding="utf-8")
    return paths


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


def performance_change(changes: pd.DataFrame, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Change of performance in each domain (Tables 2–4), largest absolute change first.

    `changes` is `performances.changes(profile)`. Values are points (× 100), mean over seeds and questions;
    `se` is the standard error over questions of the seed-mean change, `low` and `high` a 95% bootstrap
    interval over questions and seeds.
    """
    rows = []
    for domain, group in changes.groupby("domain"):
        row = {"domain": domain, "questions": group.id.nunique()}
        for measure in (profile.evaluation.measure, "gold_loglik", "accuracy"):
            if f"{measure} change" in row:
                continue
            of = group[group.measure == measure]
            values = 100 * of.pivot(index="seed", columns="id", values="change").to_numpy()
            by_question = values.mean(0)
            row[f"{measure} before"] = 100 * of.before.mean()
            row[f"{measure} change"] = by_question.mean()
            row[f"{measure} se"] = by_question.std(ddof=1) / len(by_question) ** 0.5
            if measure == profile.evaluation.measure:
                row["low"], row["high"] = stats.mean_interval(values)
        rows.append(row)
    table = pd.DataFrame(rows)
    order = table[f"{profile.evaluation.measure} change"].abs().sort_values(ascending=False).index
    theirs = paper("table02_04_accuracy_change").pivot(index="domain", columns="model", values="change_percent")
    theirs.columns = [f"paper: {model}" for model in theirs.columns]
    table = table.loc[order].merge(theirs, how="left", left_on="domain", right_index=True)
    caption = (
        "Tables 2–4. Change of performance, after − before SFT, paired by question, in points: ours for "
        f"{MEASURE_NAMES[profile.evaluation.measure]} (with a 95% interval), the gold option's log-likelihood "
        "(× 100, nats a token) and accuracy, mean over seeds; beside the paper's change of accuracy. "
        f"{about(profile)}"
    )
    return table.reset_index(drop=True), caption


def _beside_paper(correlations: pd.DataFrame, name: str, columns: Mapping[str, str], model: str) -> pd.DataFrame:
    """Our rows (a metric, selection and change each), then the paper's, in one table."""
    ours = correlations.assign(source="ours", model=model)
    theirs = paper(name).rename(columns=columns).assign(source="paper", selection="paper", change="absolute", n=8)
    keep = ["source", "model", "metric", "selection", "change", "n", *columns.values()]
    intervals = [c for c in ("r_low", "r_high", "rho", "p", "r2_low", "r2_high") if c in _KEPT[name]]
    return pd.concat([ours, theirs])[keep + intervals].reset_index(drop=True)


_KEPT = {"table06_pearson": ("r_low", "r_high", "rho", "p"), "table09_r2": ("r2_low", "r2_high")}


def table6(correlations: pd.DataFrame, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Pearson r of each score with the change of performance (Table 6); `stats.correlations` in."""
    columns = {"pearson_mean": "r", "pearson_sd": "r_sd"}
    caption = (
        "Table 6. Pearson r between score and change over domains: mean and standard deviation over seeds; "
        "ours with a 95% bootstrap interval over questions and seeds, Spearman ρ and a permutation p, over all "
        "domains and over the paper's selection (four largest and four smallest changes, chosen by the outcome), "
        f"against absolute and signed change. {about(profile)}"
    )
    return _beside_paper(correlations, "table06_pearson", columns, profile.model), caption


def table9(correlations: pd.DataFrame, profile: Profile) -> tuple[pd.DataFrame, str]:
    """R² of the same correlations (Table 9)."""
    columns = {"r2_mean": "r2", "r2_sd": "r2_sd"}
    caption = (
        "Table 9. R² between score and change over domains, mean and standard deviation over seeds, ours with a "
        f"95% bootstrap interval. {about(profile)}"
    )
    return _beside_paper(correlations, "table09_r2", columns, profile.model), caption


def _numbers(e: Estimate) -> dict[str, float]:
    return {"value": e.value, "low": e.low, "high": e.high}


def table1(found: Mapping[str, Mapping[str, Estimate]], profile: Profile) -> tuple[pd.DataFrame, str]:
    """Other training sets: r and overlap (Table 1). `found` is `comparisons.training_sets(profile)`."""
    rows = [
        {"source": "ours", "model": profile.model, "training set": name, "measure": measure, **_numbers(e)}
        for name, row in found.items() for measure, e in row.items()
    ]  # fmt: skip
    for r in paper("table01_other_training_sets").itertuples():
        common = {"source": "paper", "model": r.model, "training set": r.training_domain}
        rows.append({**common, "measure": r.metric, "value": r.pearson_mean})
        rows.append({**common, "measure": "overlap", "value": r.overlap_top100 / 100})
    caption = (
        "Table 1. Other training sets: r of each score with the absolute change over all domains, and overlap at "
        f"N = {profile.top_n} of estimated and actual dims, with 95% intervals. The first set is the main run (all "
        f"seeds); the others are fine-tuned on with one seed. The paper's r are over 8 domains. {about(profile)}"
    )
    return pd.DataFrame(rows), caption


def table5(
    found: Mapping[str, Estimate], costs: Mapping[str, float], profile: Profile
) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """Baselines beside their cost (Table 5): `comparisons.predictors(profile)` and `comparisons.costs(profile)`."""
    theirs = paper("table05_baselines").set_index("baseline").pearson
    names = [
        "feature_activations",
        "similarity_domain_to_training_set",
        "similarity_before_after_sft",
        "sts_act",
        "sts_icl",
    ]
    table = pd.DataFrame(
        [
            {
                "predictor": name, **_numbers(found[name]),
                "uses the tuned model": name == "similarity_before_after_sft",
                "cost, TFLOP": costs[name] / 1e12, "paper": theirs.get("sts" if name == "sts_icl" else name),
            }
            for name in names
        ]
    )  # fmt: skip
    caption = (
        "Table 5. r of simple predictors with the absolute change over all domains, 95% intervals, and what each "
        "costs for one seed, counted in floating-point operations (evaluation left out). Similarity before and "
        "after SFT is 1 − cosine, so that more movement is more. The paper's column is for 8 domains, with one number "
        "for STS. "
        f"{about(profile)}"
    )
    return table, caption


def table7(shares: Mapping[object, Estimate], agreement: float, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Share of the shifted dims labelled mathematics (Table 7): `labels.shares(profile)["share"]`."""
    theirs = paper("table07_math_share").set_index("top_n").math_percent / 100
    rows = [
        {"dims": f"D_{n}" if n != "all" else "all labelled", **_numbers(e), "paper": theirs.get(n)}
        for n, e in shares.items()
    ]
    return pd.DataFrame(rows), (
        "Table 7. Share of the shifted dims whose highest-activating texts are mostly mathematics, of those that "
        f"fire on any; 'all labelled' is the base rate. {_labelling(profile, agreement)} {about(profile)}"
    )


def table8(recalls: Mapping[str, Estimate], agreement: float, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Recall of labelled dims among the top 500 (Table 8): `labels.shares(profile)["recall"]`."""
    theirs = paper("table08_recall").set_index("annotation").recall_percent_in_top500 / 100
    rows = [{"label": name, **_numbers(e), "paper": theirs.get(name)} for name, e in recalls.items()]
    return pd.DataFrame(rows), (
        "Table 8. Share of (at most) 100 features labelled mathematics, and of 100 labelled code, that are among the "
        f"500 most shifted. {_labelling(profile, agreement)} {about(profile)}"
    )


def _labelling(profile: Profile, agreement: float) -> str:
    s = profile.labels
    return (
        f"Labels: the {s.top} texts on which a feature fires hardest, out of equally many of three kinds (mathematics: "
        f"{profile.train}, code: {s.code}, dialogue: {s.dialogue}), vote by their source, so no judge is needed. The "
        f"model as its own judge names the source of {agreement:.0%} of the texts (chance 33%), and is not used. The "
        "paper: an LLM judge."
    )


def table10(gains: Mapping[str, Mapping[str, Estimate]], profile: Profile) -> tuple[pd.DataFrame, str]:
    """Mathematics before, after SFT, after SFT on STS-guided data (Table 10): `mixtures.changes(profile)`."""
    theirs = paper("table10_math_accuracy").set_index("condition").accuracy_percent
    rows = [{"condition": "before_sft", "value": 0.0, "paper accuracy, %": theirs["before_sft"]}]
    for condition, name in (("sft_limo", "none"), ("sft_sts_guided_mixture", "STS")):
        row = {"condition": condition, **_numbers(gains[name]["mathematics"]), "paper accuracy, %": theirs[condition]}
        rows.append(row)
    return pd.DataFrame(rows), (
        "Table 10. Mathematics: change of the log-likelihood a token (nats) of held-out solutions against the "
        "untouched model, after SFT on the training set alone and with extra data in the ratio of STS; one seed. "
        f"{about(profile)}"
    )


def table11(found: Mapping[tuple[str, int], Estimate], profile: Profile) -> tuple[pd.DataFrame, str]:
    """Selective fine-tuning at two sizes (Table 11): `selective.estimates(profile)`."""
    rows = [{"source": "ours", "dims": n, "which": which, **_numbers(e)} for (which, n), e in found.items()]
    for r in paper("table11_selective_finetuning").itertuples():
        for which in ("random", "estimated"):
            change = getattr(r, f"{which}_dims") - r.before_sft
            rows.append({"source": "paper (points)", "dims": r.selected_dims, "which": which, "value": change})
    return pd.DataFrame(rows), (
        "Table 11. Selective fine-tuning: change of mathematics against the untouched model; ours in nats a token of "
        f"held-out solutions, the paper's in points of accuracy. {about(profile)}"
    )


def table12(by_l0: Mapping[str, Mapping[str, Estimate]], profile: Profile) -> tuple[pd.DataFrame, str]:
    """r against the SAE's L0 (Table 12): L0 -> metric -> r, as Fig 4c draws."""
    rows = [
        {"source": "ours", "model": profile.model, "l0": float(l0), "metric": metric, **_numbers(e)}
        for l0, row in by_l0.items() for metric, e in row.items()
    ]  # fmt: skip
    for r in paper("table12_sparsity").itertuples():
        rows.append({"source": "paper", "model": r.model, "l0": r.l0, "value": r.pearson})
    return pd.DataFrame(
        rows
    ), f"Table 12. r of score and absolute change over all domains against the SAE's L0. {about(profile)}"


def table13(found: Mapping[str, Estimate], profile: Profile) -> tuple[pd.DataFrame, str]:
    """Probes against STS (Table 13): `comparisons.predictors(profile)`."""
    theirs = paper("table13_probes").set_index("predictor").pearson
    names = ["probe_raw_activations", "probe_sae_activations", "sts_act", "sts_icl"]
    rows = [
        {"predictor": n, **_numbers(found[n]), "paper": theirs.get("sts" if n == "sts_icl" else n)} for n in names
    ]  # fmt: skip
    return pd.DataFrame(rows), (
        "Table 13. r with the absolute change over all domains: ridge probes from a domain's mean activations, each "
        "domain predicted from the others (leave one domain out; 14 points, and such predictions correlate negatively "
        f"with the outcome when there is nothing to learn), and STS. {about(profile)}"
    )


def rollouts(overlaps: Mapping[str, Estimate], verified: str, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Overlap of D_N with what GRPO moved, by whose answers are shown (`reinforcement.rollout_overlap`)."""
    rows = [{"demonstrations": k, "overlap": e.value, "low": e.low, "high": e.high} for k, e in overlaps.items()]
    short = "" if "rollouts" in overlaps else ", too few to show"
    caption = (
        f"Reinforcement learning: overlap at N = {profile.top_n} of D_N with the features that GRPO on "
        f"{profile.grpo.train} moved, with ground-truth demonstrations in context and with the untouched model's own "
        f"sampled answers that are verified correct ({verified} were{short}); `difference` is paired. Not in the "
        f"paper, which names it as an open problem. {about(profile)}"
    )
    return pd.DataFrame(rows), caption
