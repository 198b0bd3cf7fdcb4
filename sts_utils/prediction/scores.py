"""The scores that can rank domains, and how each did in the positive control."""

import pandas as pd

from sts_utils import store

#: Score -> (its name in runs/scores.py, whether D_N is contrastive: what any context moves is
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


def in_control() -> dict[str, list[dict]]:
    """Rows on how the scores did, `control`, and the signed one, `signs`: as it is and beside the
    others; none where the positive control's result is not at hand."""
    rows = {"control": [], "signs": []}
    if CONTROL_SCORES.exists():
        rows["control"] = pd.read_csv(CONTROL_SCORES).to_dict("records")
    if CONTROL_SIGNS.exists():
        judged = "change == 'gold_loglik' and score == 'cosine, D_N'"
        rows["signs"] = (
            pd.read_csv(CONTROL_SIGNS).query(judged).sort_values("read").to_dict("records")
        )
    return rows


def check(score: str, n: int, features: int | None = None, has_icl=True, domains=()) -> None:
    """Raise ValueError for a score or an N that can't be had, as far as is known: the SAE's
    features, whether the domains have worked examples (`has_icl`), and which they are."""
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    if score == "sts_icl" and not has_icl:
        raise ValueError("score 'sts_icl' needs the domains' worked examples: give demonstrations")
    if SCORES[score][0] == "sts_relative" and len(domains) == 1:
        raise ValueError(f"score {score!r} compares domains, here is one: rank by sts_act")
