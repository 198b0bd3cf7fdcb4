"""Every table and figure of the positive control: `draw(control)` gives (it, its caption)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from sts_utils import results
from sts_utils.control import effort, generic, judgement, pictures, scores, sets
from sts_utils.control.matrix import DIMS
from sts_utils.control.scores import FIXED, LIKELIHOOD, MEASURES, PROBABILITY, Score
from sts_utils.control.values import Control
from sts_utils.results import MEASURE_NAMES, SHORT_NAMES, Result
from sts_utils.store import FIGURES


def show(draw: Callable[[Control], tuple], control: Control) -> None:
    """Draw a figure or table, save it and show it with its caption."""
    thing, caption = draw(control)
    results.save(draw.__name__, thing, caption, control.setting, control.profile.name)
    display(thing.round(3) if isinstance(thing, pd.DataFrame) else thing)
    display(Markdown(f"**{caption}**"))


# --- the change, and score beside change -------------------------------------------------------


def control_change(control: Control) -> tuple[pd.DataFrame, str]:
    """Rank of the training domain by the actual change."""
    whole, ranks = control.matrix, {}
    for measure in MEASURES:
        change = np.stack([c.mean(-1) for c in whole.changes(measure)], -1)
        left = np.stack([judgement.centred(of) for of in change.swapaxes(0, 1)], 1)
        ranks[measure] = judgement.own_ranks(left, whole.own)
    table = {"training set": [whole.names[row] for row in whole.own]}
    for measure, of in ranks.items():
        table |= {f"rank by {measure}, seed {s}": of[:, j] for j, s in enumerate(whole.seeds)}
    means = "; ".join(f"{m} {judgement.over_cells(of)}" for m, of in ranks.items())
    return pd.DataFrame(table), (
        "Positive control: rank of the training domain among the domains by the *actual* change "
        f"after fine-tuning, row and column means removed. Mean rank: {means}."
    )


def control_heat_paper(control: Control) -> tuple[Figure, str]:
    """STS_act and the change of the likelihood."""
    return _heat(control, control.paper[1], LIKELIHOOD)


def control_heat(control: Control) -> tuple[Figure, str]:
    """The contrastive score and the change of the likelihood."""
    return _heat(control, FIXED, LIKELIHOOD)


def control_heat_probability(control: Control) -> tuple[Figure, str]:
    """The contrastive score and the change of the probability."""
    return _heat(control, FIXED, PROBABILITY)


def _heat(control: Control, score: Score, measure: str) -> tuple[Figure, str]:
    whole = control.matrix
    change = np.stack([c.mean((1, 2)) for c in whole.changes(measure)], -1)
    both = [
        pd.DataFrame(judgement.centred(values), whole.names, whole.domains)
        for values in (scores.values(whole, score).mean(1), change)
    ]
    titles = score.label, f"change of {SHORT_NAMES[measure].replace(' × 100', '')}"
    return pictures.heat(*both, whole.own, titles), (
        f"{score.label} (N = {score.n}) before training, left, and change of "
        f"{MEASURE_NAMES[measure]} by fine-tuning, right; a row a training set, mean over seeds, "
        "row and column means removed. Boxes mark the training set's own domain."
    )


# --- design and judgement ----------------------------------------------------------------------


def control_design(control: Control) -> tuple[pd.DataFrame, str]:
    """The best scores on the design half."""
    half, where = control.half("design")
    columns = ["score", "n", "first", "rank", "ranks", f"r_{LIKELIHOOD}"]
    return control.design[columns].head(25), (
        f"Positive control, {where.removeprefix('on the ')}: the 25 best of "
        f"{len(control.design)} scores on {', '.join(half.names)} (seed {half.seeds[0]}); `first` "
        "is the share of rank 1, `rank` the mean rank of the training domain."
    )


def control_sizes(control: Control) -> tuple[Figure, str]:
    """Mean rank of the training domain against N."""
    half, where = control.half("design")
    return pictures.by_size(control.design, len(half.domains)), (
        f"Mean rank of the training domain against N, {where}, by what is taken from the ICL shift "
        "before features are ranked: nothing (paper), the shift under length-matched "
        "demonstrations of other sets, under prose, under both, or the features that prose moves "
        "most left out. Dashed: chance."
    )


def control_judgement(control: Control) -> tuple[pd.DataFrame, str]:
    """What each score finds."""
    half, where = control.half("judgement")
    seeds = ", ".join(map(str, half.seeds))
    return control.judged.drop(columns=["name", "dims"]), (
        f"Positive control, {where} ({', '.join(half.names)}; seeds {seeds}): `first`: share of "
        "training sets and seeds whose own domain has rank 1; `rank`: its mean rank; `r_…`: "
        "correlation with the change over all cells, row and column means removed, with a "
        "permutation test over rows; `within_…`: mean over sets of the correlation over domains."
    )


def control_ranks(control: Control) -> tuple[Figure, str]:
    """Rank of the training domain by each score."""
    half, where = control.half("judgement")
    ranks = {score.label: judgement.ranks(half, score) for score in control.candidates}
    coloured, domains = [score.label for score in control.main], len(half.domains)
    return pictures.rank_strip(ranks, coloured, domains), (
        f"Rank that each score gives the training set's own domain among {domains}, {where}: a "
        "point a training set and seed, the black bar their mean. Coloured: the paper's two scores "
        "and the contrastive one."
    )


def control_goals(control: Control) -> tuple[pd.DataFrame, str]:
    """The goals, and what was reached."""
    row = control.judged.set_index("score").loc[FIXED.label]
    goals = judgement.goals(row, control.costs.score / control.costs.probe)
    return goals, (
        f"Positive control, {control.half('judgement')[1]}: goals and what {FIXED.label} (N = "
        f"{FIXED.n}) reached, with 95% intervals."
    )


def control_all(control: Control) -> tuple[pd.DataFrame, str]:
    """What each score finds on all sets and seeds."""
    whole = control.matrix
    judged = judgement.judge(whole, control.candidates, MEASURES)
    return judged.drop(columns=["name", "dims", "ranks"]), (
        f"Positive control, all {len(whole.names)} sets and {len(whole.seeds)} seeds (design half "
        "included)."
    )


def control_sign(control: Control) -> tuple[pd.DataFrame, str]:
    """Whether the sign of a score is that of the change."""
    half, where = control.half("judgement")
    cosines = [score for score in control.candidates if score.name == "cosine"]
    reads = {"as it is": cosines, "beside the others": [*cosines, FIXED]}
    rows = []
    for measure in MEASURES:
        changes = half.changes(measure)
        for read, signed in reads.items():
            for score in signed:
                values, beside = scores.values(half, score), read == "beside the others"
                estimates = judgement.sign_test(values, changes, beside).items()
                row = {"read": read, "change": measure, "score": score.label}
                rows.append(row | {name: str(estimate) for name, estimate in estimates})
    return pd.DataFrame(rows), (
        f"Positive control, {where}: share of cells whose sign the score gets right, that of "
        "always saying the commoner sign, the difference, and r; as it is, and with row and column "
        "means removed."
    )


def offered(control: Control) -> pd.DataFrame:
    """Share of rank 1 of each score that `predict` offers, also as scores.csv for its reports."""
    (icl, act), n, contrast = control.paper, FIXED.n, FIXED.dims
    named = {"sts_relative": Score("sts_relative", n=n), "sts_relative_contrastive": FIXED}
    named |= {"sts_act": act, "sts_act_contrastive": Score("sts_act", contrast, n)}
    named |= {"sts_icl": icl, "token overlap (no model)": Score("token overlap")}
    half, where = control.half("judgement")
    rows = []
    for name, score in named.items():
        ranks = judgement.ranks(half, score)
        statistic = (
            f"share of {ranks.size} training sets and seeds whose own domain of "
            f"{len(half.domains)} comes first, {where}"
        )
        share = results.numbers(judgement.first_share(ranks))
        rows.append({"score": name, "statistic": statistic} | share)
    table, folder = pd.DataFrame(rows), FIGURES / control.profile.name
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "scores.csv", index=False, float_format="%.4g")
    return table


# --- why ---------------------------------------------------------------------------------------


def control_agreement(control: Control) -> tuple[pd.DataFrame, str]:
    """D_N beside the features that SFT moved."""
    whole, rows = control.matrix, []
    features = len(whole.cells[0][0].moved)
    for which in DIMS:
        for n in (FIXED.n, 3 * FIXED.n):
            overlap = judgement.over_cells(judgement.agreement(whole, which, n))
            row = {"D_N": which, "N": n} | judgement.interval("overlap", overlap)
            rows.append(row | {"chance": n / features})
    names = {"overlap_low": "low", "overlap_high": "high"}
    return pd.DataFrame(rows).rename(columns=names), (
        "Positive control: overlap of the estimated D_N with the features that SFT moved most (for "
        "a contrastive D_N: moved more than SFT on other sets)."
    )


def control_generic(control: Control) -> tuple[Figure, str]:
    """What is generic in a shift."""
    cells = [row[0] for row in control.matrix.cells]
    kinds = {"D_100": "paper", f"D_100, {FIXED.dims} taken away": FIXED.dims}
    between = {label: generic.overlaps_between(cells, which) for label, which in kinds.items()}
    said = []
    for label, table in between.items():
        off = table.to_numpy()[~np.eye(len(table), dtype=bool)]
        said.append(f"{label}: {off.mean():.0%} (from {off.min():.0%} to {off.max():.0%})")
    counts = generic.by_context(control.profile, cells[0].seed)
    return pictures.generic(between, counts), (
        "How much of an ICL shift is generic. Left and middle: overlap of D_100 between training "
        f"sets ({'; '.join(said)}). Right: overlap of a set's D_100 with that of other sets and "
        "with that under prose of the same length, against the length of the context."
    )


def control_doses(control: Control) -> tuple[Figure, str]:
    """r of score and change against the dose of SFT."""
    table = effort.by_dose(control.matrix, [control.paper[1], FIXED])
    return pictures.doses(table), (
        f"r of score and change over the cells of {len(sets.few(control.profile.control))} "
        "training sets (one seed, row and column means removed) against the number of SFT steps; "
        "bars are 95% bootstrap intervals over sets and questions."
    )


#: In the order of the report page.
RESULTS = tuple(
    Result(draw, f"Positive control: {title}", kind, sets.NOTEBOOK)
    for draw, title, kind in (
        (control_judgement, "what each score finds", "table"),
        (control_goals, "goals, and what was reached", "table"),
        (control_heat_paper, "the paper's score and the change", "figure"),
        (control_heat, "the contrastive score and the change", "figure"),
        (control_heat_probability, "the change of P(gold)", "figure"),
        (control_ranks, "rank of the training domain", "figure"),
        (control_change, "did training move its own domain?", "table"),
        (control_sizes, "N of D_N, design half", "figure"),
        (control_design, "scores on the design half", "table"),
        (control_all, "all sets and seeds", "table"),
        (control_agreement, "D_N and the features that SFT moved", "table"),
        (control_sign, "the sign", "table"),
        (control_generic, "what is generic in a shift", "figure"),
        (control_doses, "dose of SFT", "figure"),
    )
)
