"""The scores that can rank domains, and how each did in the positive control."""

import pandas as pd

from sts_utils import store

#: Score -> (its name in method/score.py, whether D_N is contrastive: what any context moves is
#: taken from the shift).
SCORES = {
    "sts_relative": ("sts_relative", False),
    "sts_relative_contrastive": ("sts_relative", True),
    "sts_act": ("sts_act", False),
    "sts_act_contrastive": ("sts_act", True),
    "sts_icl": ("sts_icl", False),
}
#: Set by the positive control: of these, the one that did best there on training sets kept for
#: judgement (notebook 07_control; fixed on the design half was sts_relative_contrastive).
DEFAULT_SCORE = "sts_relative"
#: How each score did there, read when a report is written: score, statistic, value, low, high.
CONTROL_SCORES = store.ROOT / "figures/control/scores.csv"
#: How often a score had the sign of the change: read, change, score, accuracy, majority, ….
CONTROL_SIGNS = store.ROOT / "figures/control/control_sign.csv"
CONTROL = "In the positive control, on SmolLM2-135M alone"


def check(
    score: str, n: int, features: int | None = None, has_icl: bool = True, domains=()
) -> None:
    """Raise ValueError, in one line, for a score or an N that can't be had.

    `features` of the SAE, `has_icl` (whether the domains have worked examples) and `domains` as far
    as they are known.
    """
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    if score == "sts_icl" and not has_icl:
        needs = "needs the domains' worked examples: give demonstrations, or rank by sts_act"
        raise ValueError(f"score 'sts_icl' {needs}")
    if SCORES[score][0] == "sts_relative" and len(domains) == 1:
        compares = "compares domains, here is one: give two or more, or rank by sts_act"
        raise ValueError(f"score {score!r} {compares}")


def in_control(score: str) -> str:
    """Which score ranks by default and how the scores did in the positive control."""
    other = "" if score == DEFAULT_SCORE else f"; the default is {DEFAULT_SCORE}"
    said = f"Ranked by {score}{other}."
    if not CONTROL_SCORES.exists():
        absent = "The positive control's result is not at hand"
        return f"{said} {absent}: the default is not backed by it yet."
    table = pd.read_csv(CONTROL_SCORES)
    rows = [f"{r.score} {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in table.itertuples()]
    said += (
        f" {CONTROL} ({table.statistic.iloc[0]}): {'; '.join(rows)}. The default was chosen after "
        "these results were seen, so its own is optimistic; sts_relative_contrastive had been "
        "fixed before."
    )
    if SCORES[score][1]:
        said += (
            " Its contrast there was prose and the other training sets; here it is prose and the "
            "listed domains, of which one may be like the training set."
        )
    return said


def signs_in_control() -> str:
    """How often the signed score had the sign of the change in the positive control."""
    if not CONTROL_SIGNS.exists():
        absent = "the positive control's result is not at hand"
        return f"The signed score has not been judged yet: {absent}."
    table = pd.read_csv(CONTROL_SIGNS).set_index(["read", "change", "score"])

    def told(read: str, change: str) -> str:
        row = table.loc[(read, "gold_loglik", "cosine, D_N")]
        return (
            f"had the sign of {change} in {row.accuracy} of the cells, always saying the commoner "
            f"sign in {row.majority} (difference {row.difference}; r {row.r})"
        )

    alone = told("as it is", "the change")
    beside = told("beside the others", "the change beside other domains and sets")
    return f"{CONTROL}, the signed score {alone}, and {beside}."
