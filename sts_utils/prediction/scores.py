"""The scores that can rank domains, and how each did in the positive control."""

import pandas as pd

from sts_utils import store

#: STS_act and STS_ICL are the paper's. `sts_relative` compares domains feature by feature, and
#: `sts_answers` how a domain's and the training set's features move from wrong answers to right
#: ones, where both are multiple choice (runs/scores.py).
SCORES = ("sts_relative", "sts_act", "sts_icl", "sts_answers")
#: Of these, the one that did best on topics in an earlier positive control (commit 0de4d57), on
#: training sets kept for judgement; it was chosen after that was seen.
DEFAULT_SCORE = "sts_relative"
#: How each score did in the positive control, read when a report is written, and what it is called
#: in those tables.
CONTROL = store.ROOT / "figures/control"
JUDGED = {
    "sts_relative": "sts_relative",
    "sts_act": "sts_act",
    "sts_icl": "sts_icl",
    "sts_answers": "right − wrong answers, at the answer",
    "overlap of words": "token overlap",
    "a quick probe": "quick probe",
}


def in_control() -> dict[str, dict[str, float]]:
    """Score -> how it did in the positive control, if that is at hand: `auc`, how often it puts the
    trained skill in other words above another skill in the same words; `r` with the change beyond
    wording (both with `_low` and `_high`)."""
    if not (table := CONTROL / "control_judgement.csv").exists():
        return {}
    judged = pd.read_csv(table).set_index("score")
    return {name: judged.loc[label].to_dict() for name, label in JUDGED.items()}


def check(
    score: str, n: int, features: int | None = None, has_icl=True, domains=(), has_wrong=True
) -> None:
    """Raise ValueError for a score or an N that can't be had, as far as is known: the SAE's
    features, whether the domains have worked examples (`has_icl`), which they are, and whether all
    data have wrong answers too (`has_wrong`)."""
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    if score == "sts_icl" and not has_icl:
        raise ValueError("score 'sts_icl' needs the domains' worked examples: give demonstrations")
    if score == "sts_answers" and not (has_icl and has_wrong):
        raise ValueError(
            "score 'sts_answers' needs multiple choice with answers in the training set and in "
            "every domain's worked examples: rank by sts_relative"
        )
    if score == "sts_relative" and len(domains) == 1:
        raise ValueError(f"score {score!r} compares domains, here is one: rank by sts_act")
