"""One function per table of the paper, ours beside the paper's numbers (which lie in data/paper/)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sts_utils import stats
from sts_utils.config import Profile
from sts_utils.figures import MEASURE_NAMES, about, paper
from sts_utils.store import FIGURES


def save(table: pd.DataFrame, name: str, caption: str, profile: Profile) -> list[Path]:
    """Write a table as CSV, Markdown and LaTeX, with its caption, into figures/<profile>/."""
    folder = FIGURES / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex")]
    table.to_csv(paths[0], index=False, float_format="%.6g")
    paths[1].write_text(f"{caption}\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n", encoding="utf-8")
    latex = table.style.hide(axis="index").format(precision=3, na_rep="").format_index(escape="latex", axis=1)
    text = latex.to_latex(caption=_latex(caption), label=f"tab:{name}", hrules=True)
    paths[2].write_text(text, encoding="utf-8")
    return paths


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


def performance_change(changes: pd.DataFrame, profile: Profile) -> tuple[pd.DataFrame, str]:
    """Change of performance in each domain (Tables 2–4), largest absolute change first.

    `changes` is `units.changes(profile)`. Values are points (× 100), mean over seeds and questions;
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
