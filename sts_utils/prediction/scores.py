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
#: Of these, the one that did best on topics in an earlier positive control (commit 0de4d57), on
#: training sets kept for judgement; it was chosen after that was seen.
DEFAULT_SCORE = "sts_relative"
#: How each score did in the positive control, read when a report is written, and what it is called
#: in those tables.
CONTROL = store.ROOT / "figures/control"
JUDGED = {
    "sts_relative": "sts_relative, D_N",
    "sts_relative_contrastive": "sts_relative, D_N both",
    "sts_act": "sts_act, D_N",
    "sts_icl": "sts_icl, D_N",
    "overlap of words": "token overlap",
    "a quick probe": "quick probe",
}


def in_control() -> dict[str, dict[str, float]]:
    """Score -> how it did in the positive control, if that is at hand: `auc`, how often it puts the
    trained skill in other words above another skill in the same words; `r` with the change beyond
    wording (both with `_low` and `_high`); `first`, the share of topics that it puts first."""
    tables = [CONTROL / f"control_{name}.csv" for name in ("judgement", "topics")]
    if not all(table.exists() for table in tables):
        return {}
    judged, topics = (pd.read_csv(table).set_index("score") for table in tables)
    both = judged.join(topics["first"])
    return {name: both.loc[label].to_dict() for name, label in JUDGED.items()}


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
